-- The distinct stones that a partition has read so far, over all passes and tries.
create function penstock.stones_read(p_run_id uuid, p_partition_id text)
returns integer language sql stable as $$
    select count(distinct k.key_hash)::integer
    from penstock.nivoda_page_keys as n
    cross join lateral unnest(n.key_hashes) as k (key_hash)
    where n.run_id = p_run_id and n.partition_id = p_partition_id
$$;
