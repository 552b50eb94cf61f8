-- An account as its vendor knows it, however its id was written: act_123 and 123, properties/9 and 9.
create function core_warehouse.vendor_account(platform text, account_id text)
returns text language sql immutable parallel safe as $$
    select case platform
        when 'META' then regexp_replace(account_id, '^act_', '')
        when 'GA4' then regexp_replace(account_id, '^properties/', '')
        else account_id
    end
$$;
