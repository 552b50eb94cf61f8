-- Klaviyo's orders are counted by a metric that the account may choose anew. A total says nothing of figures that were
-- counted by another one, so each names its own.
alter table core_warehouse.fct_account_totals
add column conversion_metric_id text;  -- of Klaviyo's; null where the vendor has no such choice

-- The metric by which an account counts orders and revenue now: the chosen one, else the one that is called so.
create function core_warehouse.klaviyo_conversion_metric(settings jsonb, facts jsonb)
returns text language sql immutable parallel safe as $$
    select coalesce(nullif(settings ->> 'conversion_metric_id', ''), facts #>> '{metrics,Placed Order}')
$$;

-- Staging still knows which one the newer days were asked for; of older ones today's is the best that can be known.
update core_warehouse.fct_account_totals as total
set
    conversion_metric_id = coalesce(
        (
            select max(staged.payload ->> 'metric_id')
            from staging_ingest.klaviyo_totals as staged
            where
                staged.connection_id = total.connection_id and staged.report_key = 'totals'
                and staged.record_date = total.date
        ),
        core_warehouse.klaviyo_conversion_metric(account.settings, account.facts)
    )
from public.platform_connections as account
where total.connection_id = account.id and account.platform = 'KLAVIYO';
