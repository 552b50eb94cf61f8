-- after: account_twins
-- What was spent, one row per account and day, whatever the platform: the one place where platforms' words become
-- ours. Account-level rows only, because delivery without an ad is in no sum of ads, and one attribution setting,
-- because the same spend stands in each; one row of an account that is registered twice. Clicks are those that lead
-- somewhere.
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
where
    fact.level = 'ACCOUNT'
    and fact.attribution_setting = 'account'
    -- Whether there are twins at all is asked once, not for every row.
    and not (
        fact.connection_id = any(array(select twin.connection_id from core_warehouse.account_twins as twin))
        and exists (
            select
            from core_warehouse.account_twins as twin
            inner join core_warehouse.fct_meta_daily as said on twin.better_id = said.connection_id
            where
                twin.connection_id = fact.connection_id
                and said.level = 'ACCOUNT'
                and said.date = fact.date
                and said.attribution_setting = 'account'
        )
    );
