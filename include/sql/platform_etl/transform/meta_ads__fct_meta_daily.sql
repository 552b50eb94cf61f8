-- Insights of the four levels, a row per day and entity. The days that the run read are replaced: rows that the
-- vendor withdrew go, rows that changed are written, the others are not touched. The account's own level is kept
-- beside the ads, because delivery without an ad is in no sum of ads.
with
levels (stream, level, entity) as (
    values
    ('insights_account', 'ACCOUNT', 'account_id'),
    ('insights_campaign', 'CAMPAIGN', 'campaign_id'),
    ('insights_adset', 'ADSET', 'adset_id'),
    ('insights_ad', 'AD', 'ad_id')
),

windows as (
    select levels.stream, levels.level, levels.entity, run_windows.first_day, run_windows.last_day
    from run_windows
    inner join levels on run_windows.stream = levels.stream
),

-- The bounds of all windows, by which an index finds the days: a join with windows is planned as a ninth of all rows.
span as (
    select min(windows.first_day) as first_day, max(windows.last_day) as last_day
    from windows
),

source as materialized (
    select
        windows.level,
        staged.record_date as date,
        staged.payload ->> windows.entity as entity_id,
        staged.payload ->> 'campaign_id' as campaign_id,
        staged.payload ->> 'adset_id' as ad_group_id,
        staged.payload ->> 'attribution_setting' as vendor_attribution,
        coalesce(staged.payload ->> 'account_currency', %(currency)s)::char(3) as currency,
        coalesce((staged.payload ->> 'spend')::numeric(18, 6), 0) as spend,
        coalesce((staged.payload ->> 'impressions')::bigint, 0) as impressions,
        (staged.payload ->> 'reach')::bigint as reach,
        coalesce((staged.payload ->> 'clicks')::bigint, 0) as clicks,
        coalesce((staged.payload ->> 'inline_link_clicks')::bigint, 0) as inline_link_clicks,
        outbound.outbound_clicks::bigint as outbound_clicks,
        counted.landing_page_views::bigint as landing_page_views,
        counted.video_views_3s::bigint as video_views_3s,
        counted.purchases::numeric(18, 6) as purchases,
        valued.purchases::numeric(18, 6) as purchase_value,
        counted.add_to_carts::numeric(18, 6) as add_to_carts,
        counted.initiate_checkouts::numeric(18, 6) as initiate_checkouts,
        counted.leads::numeric(18, 6) as leads
    from windows
    inner join staging_ingest.meta_ads_insights as staged
        on
            windows.stream = staged.report_key
            and staged.record_date between windows.first_day and windows.last_day
    cross join lateral core_warehouse.meta_action_totals(staged.payload -> 'actions') as counted
    cross join lateral core_warehouse.meta_action_totals(staged.payload -> 'action_values') as valued
    cross join lateral core_warehouse.meta_action_totals(staged.payload -> 'outbound_clicks') as outbound
    where
        staged.connection_id = %(connection_id)s
        and staged.record_date >= (select span.first_day from span)
        and staged.record_date <= (select span.last_day from span)
),

stored as (
    select fact.ctid as place, fact.*
    from core_warehouse.fct_meta_daily as fact
    inner join windows
        on
            fact.level = windows.level
            and fact.date between windows.first_day and windows.last_day
    where
        fact.connection_id = %(connection_id)s
        and fact.attribution_setting = 'account'
        and fact.date >= (select span.first_day from span)
        and fact.date <= (select span.last_day from span)
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*
    from stored
    full join source
        on
            stored.level = source.level
            and stored.date = source.date
            and stored.entity_id = source.entity_id
    where
        source.level is null
        or (
            stored.campaign_id, stored.ad_group_id, stored.vendor_attribution, stored.currency, stored.spend,
            stored.impressions, stored.reach, stored.clicks, stored.inline_link_clicks, stored.outbound_clicks,
            stored.landing_page_views, stored.video_views_3s, stored.purchases, stored.purchase_value,
            stored.add_to_carts, stored.initiate_checkouts, stored.leads
        ) is distinct from (
            source.campaign_id, source.ad_group_id, source.vendor_attribution, source.currency, source.spend,
            source.impressions, source.reach, source.clicks, source.inline_link_clicks, source.outbound_clicks,
            source.landing_page_views, source.video_views_3s, source.purchases, source.purchase_value,
            source.add_to_carts, source.initiate_checkouts, source.leads
        )
),

withdrawn as (
    delete from core_warehouse.fct_meta_daily as fact
    where fact.ctid = any(array(select place from compared where level is null))
)

insert into core_warehouse.fct_meta_daily as fact (
    connection_id, level, date, entity_id, campaign_id, ad_group_id, vendor_attribution, currency, spend,
    impressions, reach, clicks, inline_link_clicks, outbound_clicks, landing_page_views, video_views_3s, purchases,
    purchase_value, add_to_carts, initiate_checkouts, leads, run_id
)
select
    %(connection_id)s::uuid, level, date, entity_id, campaign_id, ad_group_id, vendor_attribution, currency, spend,
    impressions, reach, clicks, inline_link_clicks, outbound_clicks, landing_page_views, video_views_3s, purchases,
    purchase_value, add_to_carts, initiate_checkouts, leads, %(run_id)s::uuid
from compared
where level is not null
on conflict (connection_id, level, date, entity_id, attribution_setting) do update set
    campaign_id = excluded.campaign_id,
    ad_group_id = excluded.ad_group_id,
    vendor_attribution = excluded.vendor_attribution,
    currency = excluded.currency,
    spend = excluded.spend,
    impressions = excluded.impressions,
    reach = excluded.reach,
    clicks = excluded.clicks,
    inline_link_clicks = excluded.inline_link_clicks,
    outbound_clicks = excluded.outbound_clicks,
    landing_page_views = excluded.landing_page_views,
    video_views_3s = excluded.video_views_3s,
    purchases = excluded.purchases,
    purchase_value = excluded.purchase_value,
    add_to_carts = excluded.add_to_carts,
    initiate_checkouts = excluded.initiate_checkouts,
    leads = excluded.leads,
    run_id = excluded.run_id,
    loaded_at = now()
