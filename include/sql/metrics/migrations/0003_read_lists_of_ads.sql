-- The ad ids that a request names, as people write them: one text or number, several in one text, an array of either.
-- Ids are digits, so that blanks, commas and semicolons can only stand between them.
create or replace function penstock.ad_ids(p_value jsonb)
returns table (ad_id text) language sql immutable parallel safe as $$
    select distinct part.ad_id
    from jsonb_array_elements(case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end)
        as item
    cross join lateral regexp_split_to_table(item #>> '{}', '[\s,;]+') as part (ad_id)
    where jsonb_typeof(item) in ('string', 'number') and part.ad_id <> ''
$$;
