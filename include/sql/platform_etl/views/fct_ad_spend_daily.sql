-- What was spent, one row per account and day, whatever the platform: the one place where platforms' words become
-- ours. Account-level rows only, because delivery without an ad is in no sum of ads, and one attribution setting,
-- because the same spend stands in each. Clicks are those that lead somewhere.
create or replace view core_warehouse.fct_ad_spend_daily as
select
    fact.connection_id,
    'META'::text as platform,
    fact.date,
    fact.currency,
    fact.spend,
    fact.impressions,
    fact.inline_link_clicks as clicks,
    fact.purchases as conversions,
    fact.purchase_value as conversion_value
from core_warehouse.fct_meta_daily as fact
where fact.level = 'ACCOUNT' and fact.attribution_setting = 'account';
