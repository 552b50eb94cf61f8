-- Details of apps. Returns which were read for the first time.
with records as (
    select
        r.*,
        -- A kind that the old enum does not know leaves the column as it is.
        r.type = any(enum_range(null::public.app_type)::text []) as is_known_type
    from jsonb_to_recordset(%(records)s) as r (
        appid integer, name text, type text, is_free boolean, release_date date, is_released boolean,
        has_workshop boolean, has_developer_info boolean, currency text, price_cents integer,
        initial_price_cents integer, discount_percent integer
    )
),

-- As it was: statements of one query see the rows as they stood before it.
former as (
    select
        r.appid,
        s.last_storefront_sync is null as is_created,
        r.price_cents is not null and (
            a.current_price_cents is distinct from r.price_cents
            or a.current_discount_percent is distinct from r.discount_percent
            or a.price_currency is distinct from r.currency
        ) as has_new_price
    from records as r
    inner join public.apps as a on r.appid = a.appid
    inner join public.sync_status as s on r.appid = s.appid
),

apps as (
    update public.apps as a set
        name = r.name,
        type = case when r.is_known_type then r.type::public.app_type else a.type end,
        is_free = r.is_free,
        release_date = r.release_date,
        is_released = r.is_released,
        has_workshop = r.has_workshop,
        has_developer_info = r.has_developer_info,
        current_price_cents = r.price_cents,
        current_discount_percent = r.discount_percent,
        price_currency = r.currency,
        updated_at = now()
    from records as r
    where a.appid = r.appid and (
        a.name, a.type::text, a.is_free, a.release_date, a.is_released, a.has_workshop, a.has_developer_info,
        a.current_price_cents, a.current_discount_percent, a.price_currency
    ) is distinct from (
        r.name, case when r.is_known_type then r.type else a.type::text end, r.is_free, r.release_date, r.is_released,
        r.has_workshop, r.has_developer_info, r.price_cents, r.discount_percent, r.currency::char(3)
    )
),

prices as (
    insert into penstock.app_prices (appid, currency, price_cents, initial_price_cents, discount_percent)
    select r.appid, r.currency, r.price_cents, r.initial_price_cents, r.discount_percent
    from records as r
    inner join former as f on r.appid = f.appid and f.has_new_price
)

select appid, is_created from former
