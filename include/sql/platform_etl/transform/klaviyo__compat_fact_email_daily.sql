-- The old dashboard's table for the days that this run touched: the e-mails of all of the shop's accounts, in their
-- own currency, or in the shop's where they differ. A day that the old columns cannot hold, or that lacks a rate,
-- is left out and becomes a finding, because a wrong figure is worse than none.

-- Two accounts of a shop that load at the same time would each overlook the other's new rows.
select pg_advisory_xact_lock(hashtextextended('fact_email_daily ' || %(shop_id)s::text, 0));

with
days as (
    select distinct day.value::date as date
    from run_windows
    cross join lateral generate_series(
        run_windows.first_day, run_windows.last_day, interval '1 day'
    ) as day (value)
    where run_windows.stream = 'message_aggregates'
),

by_account as (
    select
        fact.date, fact.currency,
        sum(fact.recipients) as emails_sent,
        sum(fact.delivered) as emails_delivered,
        sum(fact.opens) as opens,
        sum(fact.clicks) as clicks,
        sum(fact.unsubscribes) as unsubscribes,
        sum(fact.conversion_value) as revenue
    from public.platform_connections as account
    cross join days
    inner join core_warehouse.fct_klaviyo_message_daily as fact
        on account.id = fact.connection_id and days.date = fact.date
    where
        account.shop_id = %(shop_id)s
        and account.platform = 'KLAVIYO'
        and fact.channel in ('email', 'unknown')
    group by account.id, fact.date, fact.currency
),

currencies as (
    select
        by_account.date,
        case
            when count(distinct by_account.currency) = 1 then min(by_account.currency)
            else coalesce(max(shop.currency), 'USD')
        end as currency
    from by_account
    left join core_warehouse.shops as shop on shop.shop_id = %(shop_id)s
    group by by_account.date
),

converted as (
    select
        by_account.date, currencies.currency,
        by_account.emails_sent,
        by_account.emails_delivered,
        by_account.opens,
        by_account.clicks,
        by_account.unsubscribes,
        core_warehouse.to_currency(
            by_account.revenue, by_account.currency, currencies.currency, by_account.date
        ) as revenue
    from by_account
    inner join currencies on by_account.date = currencies.date
),

by_day as (
    select
        date, currency,
        sum(emails_sent) as emails_sent,
        sum(emails_delivered) as emails_delivered,
        sum(opens) as opens,
        sum(clicks) as clicks,
        sum(unsubscribes) as unsubscribes,
        case when count(*) = count(revenue) then sum(revenue) end as revenue
    from converted
    group by date, currency
),

judged as (
    select
        by_day.*,
        coalesce(
            abs(revenue) < 99999999.995
            and emails_sent < 2147483647.5
            and emails_delivered < 2147483647.5
            and opens < 2147483647.5
            and clicks < 2147483647.5
            and unsubscribes < 2147483647.5,
            false
        ) as is_exact
    from by_day
),

source as materialized (
    select
        date, currency,
        round(emails_sent)::integer as emails_sent,
        round(emails_delivered)::integer as emails_delivered,
        round(opens)::integer as opens,
        round(clicks)::integer as clicks,
        round(unsubscribes)::integer as unsubscribes,
        round(revenue, 2)::numeric(10, 2) as revenue
    from judged
    where is_exact
),

findings as (
    insert into penstock.quality_results (run_id, check_code, scope, severity, detail)
    select
        %(run_id)s::uuid, 'COMPAT_LEFT_OUT', 'fact_email_daily ' || judged.date, 'WARN',
        jsonb_build_object('reason', 'out of the old columns'' range, or a currency rate is missing')
    from judged
    where not judged.is_exact
    on conflict (run_id, check_code, scope) do nothing
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fact_email_daily as fact
    inner join days on fact.date = days.date
    where fact.shop_id = %(shop_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*
    from stored
    full join source on stored.date = source.date
    where
        source.date is null
        or (
            stored.emails_sent, stored.emails_delivered, stored.opens, stored.clicks, stored.unsubscribes,
            stored.revenue, stored.currency
        ) is distinct from (
            source.emails_sent, source.emails_delivered, source.opens, source.clicks, source.unsubscribes,
            source.revenue, source.currency
        )
),

withdrawn as (
    delete from core_warehouse.fact_email_daily as fact
    where fact.ctid = any(array(select place from compared where date is null))
)

insert into core_warehouse.fact_email_daily as fact (
    shop_id, date, emails_sent, emails_delivered, opens, clicks, unsubscribes, revenue, currency
)
select
    %(shop_id)s::text, date, emails_sent, emails_delivered, opens, clicks, unsubscribes, revenue, currency
from compared
where date is not null
on conflict (shop_id, date) do update set
    emails_sent = excluded.emails_sent,
    emails_delivered = excluded.emails_delivered,
    opens = excluded.opens,
    clicks = excluded.clicks,
    unsubscribes = excluded.unsubscribes,
    revenue = excluded.revenue,
    currency = excluded.currency,
    updated_at = now()
