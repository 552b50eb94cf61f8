-- Rules that several transforms and views share.

-- Meta's action types overlap, so each count takes the type that covers the others, and only without it the sum
-- of those that do not overlap (pixel, app, on Meta itself). Without any of them the vendor leaves the type out,
-- which means zero. The same rule reads `actions` (counts) and `action_values` (money).
-- https://developers.facebook.com/docs/marketing-api/reference/ads-action-stats
create function core_warehouse.meta_action_totals(entries jsonb)
returns table (
    purchases numeric, add_to_carts numeric, initiate_checkouts numeric, leads numeric,
    landing_page_views numeric, video_views_3s numeric, outbound_clicks numeric
) language sql immutable parallel safe as $$
    select
        coalesce(
            sum(entry.amount) filter (where entry.action_type = 'omni_purchase'),
            sum(entry.amount) filter (where entry.action_type = 'purchase'),
            sum(entry.amount) filter (where entry.action_type in (
                'offsite_conversion.fb_pixel_purchase', 'app_custom_event.fb_mobile_purchase',
                'onsite_conversion.purchase'
            )),
            0
        ),
        coalesce(
            sum(entry.amount) filter (where entry.action_type = 'omni_add_to_cart'),
            sum(entry.amount) filter (where entry.action_type = 'add_to_cart'),
            sum(entry.amount) filter (where entry.action_type in (
                'offsite_conversion.fb_pixel_add_to_cart', 'app_custom_event.fb_mobile_add_to_cart',
                'onsite_conversion.add_to_cart'
            )),
            0
        ),
        coalesce(
            sum(entry.amount) filter (where entry.action_type = 'omni_initiated_checkout'),
            sum(entry.amount) filter (where entry.action_type = 'initiate_checkout'),
            sum(entry.amount) filter (where entry.action_type in (
                'offsite_conversion.fb_pixel_initiate_checkout', 'app_custom_event.fb_mobile_initiated_checkout',
                'onsite_conversion.initiate_checkout'
            )),
            0
        ),
        coalesce(
            sum(entry.amount) filter (where entry.action_type = 'lead'),
            sum(entry.amount) filter (where entry.action_type in (
                'offsite_conversion.fb_pixel_lead', 'onsite_conversion.lead_grouped'
            )),
            0
        ),
        coalesce(
            sum(entry.amount) filter (where entry.action_type = 'omni_landing_page_view'),
            sum(entry.amount) filter (where entry.action_type = 'landing_page_view'),
            0
        ),
        coalesce(sum(entry.amount) filter (where entry.action_type = 'video_view'), 0),
        coalesce(sum(entry.amount) filter (where entry.action_type = 'outbound_click'), 0)
    from (
        select
            element.value ->> 'action_type' as action_type,
            (element.value ->> 'value')::numeric as amount
        from jsonb_array_elements(case jsonb_typeof(entries) when 'array' then entries else '[]' end) as element
    ) as entry
$$;

-- Budgets come in the currency's smallest unit that Meta knows; these currencies have none below the whole.
-- https://developers.facebook.com/docs/marketing-api/currencies
create function core_warehouse.meta_budget(amount numeric, currency text)
returns numeric language sql immutable parallel safe as $$
    select amount / case
        when currency in ('CLP', 'COP', 'CRC', 'HUF', 'ISK', 'IDR', 'JPY', 'KRW', 'PYG', 'TWD', 'VND') then 1
        else 100
    end
$$;

-- Null when no rate of the last seven days is known: a wrong figure is worse than none. Zero needs no rate.
create function core_warehouse.to_currency(amount numeric, from_currency text, into_currency text, on_day date)
returns numeric language sql stable parallel safe as $$
    select case
        when amount = 0 or from_currency = into_currency then amount
        else amount * (
            select fx.rate
            from core_warehouse.dim_fx_rate as fx
            where
                fx.base = from_currency::char(3)
                and fx.quote = into_currency::char(3)
                and fx.rate_date <= on_day
                and fx.rate_date >= on_day - 7
            order by fx.rate_date desc
            limit 1
        )
    end
$$;

-- The zone itself when Postgres knows it, else UTC: the old workers stored whatever text they were given, and one
-- unknown zone must not take a view down for every shop.
create function core_warehouse.known_time_zone(time_zone text)
returns text language plpgsql stable parallel unsafe as $$
begin
    perform now() at time zone time_zone;
    return coalesce(time_zone, 'UTC');
exception
    when invalid_parameter_value then
        return 'UTC';
end
$$;

-- Days that a vendor corrects after they ended. Meta: 28 (its longest attribution window). GA4: 3. Klaviyo: 5
-- (an order is attributed to an e-mail up to 120 hours after it).
create function core_warehouse.restatement_days(platform text)
returns integer language sql immutable parallel safe as $$
    select case platform when 'META' then 28 when 'GA4' then 3 when 'KLAVIYO' then 5 else 30 end
$$;

-- The first day that is not final yet: the account's own day at its last success, less the vendor's window.
create function core_warehouse.final_before(platform text, time_zone text, last_synced_at timestamptz)
returns date language sql stable parallel unsafe as $$
    select (last_synced_at at time zone core_warehouse.known_time_zone(time_zone))::date
        - core_warehouse.restatement_days(platform)
$$;
