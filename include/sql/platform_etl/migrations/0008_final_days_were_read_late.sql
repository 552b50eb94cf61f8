-- A day is final when it was read at an age that the vendor corrects no more, not when that much time has passed.
--
-- A window of five days lies within the seven that the first run of each day reads. A longer one is met on Sundays
-- alone: the 36 days of that run end with those of 29 to 35 days of age.
create or replace function core_warehouse.final_before(platform text, time_zone text, last_synced_at timestamptz)
returns date language sql stable parallel unsafe as $$
    select
        case when core_warehouse.restatement_days(platform) <= 5 then read.day else read.day - read.weekday end
        - core_warehouse.restatement_days(platform)
    from (
        select
            synced.day,
            extract(dow from synced.day)::integer as weekday  -- days since Sunday
        from (
            select (last_synced_at at time zone core_warehouse.known_time_zone(time_zone))::date as day
        ) as synced
    ) as read
$$;

-- Until now the Sunday's run read 29 days. A cursor of a week ago lets each account's next run make up for it.
update penstock.stream_cursors set cursor_at = cursor_at - interval '7 days';
