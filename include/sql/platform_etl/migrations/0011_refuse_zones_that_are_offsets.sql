-- The zone itself when it is one by name, else UTC. Postgres takes almost any text with a digit for an offset, and
-- reads its sign the other way round: in what Shopify calls a shop's zone, `(GMT-05:00) Eastern Time (US & Canada)`, a
-- day would begin ten hours early. https://www.postgresql.org/docs/current/datetime-posix-timezone-specs.html
create or replace function core_warehouse.known_time_zone(time_zone text)
returns text language plpgsql stable parallel unsafe as $$
begin
    -- No other names have a digit: https://www.iana.org/time-zones (etcetera, northamerica)
    if
        time_zone ~ '[0-9]'
        and time_zone !~* '^(Etc/GMT[+-]?[0-9]{1,2}|GMT[+-]?0|(EST5E|CST6C|MST7M|PST8P)DT)$'
    then
        return 'UTC';
    end if;
    perform now() at time zone time_zone;
    return coalesce(time_zone, 'UTC');
exception
    when invalid_parameter_value then
        return 'UTC';
end
$$;
