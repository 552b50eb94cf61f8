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
    where staged.connection_id = %(connection_id)s
),

withdrawn as (
    delete from core_warehouse.fct_meta_daily as fact
    using windows
    where
        fact.connection_id = %(connection_id)s
        and fact.level = windows.level
        and fact.date between windows.first_day and windows.last_day
        and fact.attribution_setting = 'account'
        and not exists (
            select
            from source
            where source.level = fact.level and source.date = fact.date and source.entity_id = fact.entity_id
        )
),

changed as (
    select source.*
    from source
    left join core_warehouse.fct_meta_daily as fact
        on
            fact.connection_id = %(connection_id)s
            and source.level = fact.level
            and source.date = fact.date
            and source.entity_id = fact.entity_id
            and fact.attribution_setting = 'account'
    where
        (
            fact.campaign_id, fact.ad_group_id, fact.vendor_attribution, fact.currency, fact.spend, fact.impressions,
            fact.reach, fact.clicks, fact.inline_link_clicks, fact.outbound_clicks, fact.landing_page_views,
            fact.video_views_3s, fact.purchases, fact.purchase_value, fact.add_to_carts, fact.initiate_checkouts,
            fact.leads
        ) is distinct from (
            source.campaign_id, source.ad_group_id, source.vendor_attribution, source.currency, source.spend,
            source.impressions, source.reach, source.clicks, source.inline_link_clicks, source.outbound_clicks,
            source.landing_page_views, source.video_views_3s, source.purchases, source.purchase_value,
            source.add_to_carts, source.initiate_checkouts, source.leads
        )
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
from changed
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
