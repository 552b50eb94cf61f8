-- What GA4 admits about its answers of this run, and days on which its reports disagree by more than one per cent.
with
admitted as (
    select
        flag.check_code,
        slices.stream as scope,
        min((slices.window_start at time zone %(time_zone)s)::date) as first_day,
        max((slices.window_end at time zone %(time_zone)s)::date) - 1 as last_day,
        jsonb_agg(distinct flag.said) as said
    from penstock.slices
    cross join lateral (
        values
        ('GA4_SAMPLED', slices.flags -> 'samplingMetadatas'),
        ('GA4_THRESHOLDED', nullif(slices.flags -> 'subjectToThresholding', 'false')),
        ('GA4_OTHER_ROW', nullif(slices.flags -> 'dataLossFromOtherRow', 'false')),
        ('GA4_TRUNCATED', slices.flags -> 'dataTruncationReasons'),
        ('GA4_METRIC_RESTRICTED', slices.flags -> 'schemaRestrictionResponse')
    ) as flag (check_code, said)
    where slices.run_id = %(run_id)s and slices.status = 'DONE' and flag.said is not null
    group by flag.check_code, slices.stream
),

windows as (
    select run_windows.first_day, run_windows.last_day
    from run_windows
    where run_windows.stream = 'traffic'
),

compared as (
    select
        fact.date,
        sum(fact.sessions) filter (where fact.report = 'traffic') as observed,
        sum(fact.sessions) filter (where fact.report = 'property') as expected
    from windows
    inner join core_warehouse.fct_ga4_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and fact.report in ('traffic', 'property')
            and fact.date between windows.first_day and windows.last_day
    group by fact.date
)

insert into penstock.quality_results (run_id, check_code, scope, severity, observed, expected, detail)
select
    %(run_id)s::uuid, check_code, scope, 'WARN', null::numeric, null::numeric,
    jsonb_build_object('first_day', first_day, 'last_day', last_day, 'said', said)
from admitted
union all
select
    %(run_id)s::uuid, 'GA4_REPORTS_DISAGREE', 'traffic sessions ' || date, 'WARN', observed, expected,
    jsonb_build_object('meaning', 'the sessions of all channels differ from the property''s by more than 1 percent')
from compared
where abs(observed - expected) > 0.01 * expected
on conflict (run_id, check_code, scope) do update set
    observed = excluded.observed,
    expected = excluded.expected,
    detail = excluded.detail,
    created_at = now()
