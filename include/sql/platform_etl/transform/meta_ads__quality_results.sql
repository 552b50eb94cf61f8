-- Breakdowns that do not add up to the account's day, and the spend of this run's days that belongs to no ad.
with
windows as (
    select run_windows.stream, run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream in ('insights_ad', 'insights_age_gender', 'insights_country', 'insights_platform')
),

account_days as (
    select fact.date, fact.spend
    from core_warehouse.fct_meta_daily as fact
    where
        fact.connection_id = %(connection_id)s
        and fact.level = 'ACCOUNT'
        and fact.attribution_setting = 'account'
        and fact.date >= (select min(windows.first_day) from windows)
        and fact.date <= (select max(windows.last_day) from windows)
),

breakdown_days as (
    select fact.breakdown_set, fact.date, sum(fact.spend) as spend
    from (
        values
        ('insights_age_gender', 'age,gender'),
        ('insights_country', 'country'),
        ('insights_platform', 'publisher_platform,platform_position')
    ) as part (stream, breakdown_set)
    inner join windows on part.stream = windows.stream
    inner join core_warehouse.fct_meta_breakdown_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and fact.level = 'ACCOUNT'
            and part.breakdown_set = fact.breakdown_set
            and fact.date between windows.first_day and windows.last_day
    group by fact.breakdown_set, fact.date
),

ad_days as (
    select fact.date, sum(fact.spend) as spend
    from windows
    inner join core_warehouse.fct_meta_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and fact.level = 'AD'
            and fact.attribution_setting = 'account'
            and fact.date between windows.first_day and windows.last_day
    where windows.stream = 'insights_ad'
    group by fact.date
)

insert into penstock.quality_results (run_id, check_code, scope, severity, observed, expected, detail)
select
    %(run_id)s::uuid, 'META_BREAKDOWN_INCOMPLETE', breakdown_days.breakdown_set || ' ' || breakdown_days.date, 'WARN',
    breakdown_days.spend as observed, account_days.spend as expected,
    jsonb_build_object('meaning', 'the breakdown''s spend is not the account''s')
from breakdown_days
inner join account_days on breakdown_days.date = account_days.date
where abs(breakdown_days.spend - account_days.spend) > 0.01
union all
select
    %(run_id)s::uuid, 'META_UNATTRIBUTED_DELIVERY', 'spend', 'INFO',
    sum(ad_days.spend) as observed, sum(account_days.spend) as expected,
    jsonb_build_object('meaning', 'the difference is delivery without an ad; reporting counts it')
from ad_days
inner join account_days on ad_days.date = account_days.date
having abs(sum(account_days.spend) - sum(ad_days.spend)) > 0.01
on conflict (run_id, check_code, scope) do update set
    observed = excluded.observed,
    expected = excluded.expected,
    detail = excluded.detail,
    created_at = now()
