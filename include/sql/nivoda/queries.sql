-- Named queries of the diamond ingestion: plan, partitions, consolidation, vanished stones, watermark.

-- name: database_clock
select clock_timestamp() as now;

-- name: open_run
-- The run that this DAG run has planned already and not finished: its task was tried before.
select p.run_id::text as run_id
from penstock.nivoda_plans as p
inner join run_metadata as m on p.run_id = m.run_id
where
    p.dag_id = %(dag_id)s::text and p.dag_run_id = %(dag_run_id)s::text and m.feed = %(feed)s and m.completed_at is null
order by m.started_at desc
limit 1;

-- name: watermark
select w.updated_to from penstock.feed_watermarks as w where w.feed = %(feed)s;

-- name: last_complete_full_run
-- When the last full run began whose partitions all succeeded, ours or the old worker's.
select max(m.started_at) as started_at
from run_metadata as m
left join penstock.nivoda_plans as p on m.run_id = p.run_id
where
    m.feed = %(feed)s and m.run_type = 'full' and m.completed_at is not null and m.expected_workers > 0
    and coalesce(p.is_whole, true)
    and m.expected_workers = (
        select count(*) from partition_progress as g where g.run_id = m.run_id and g.completed and not g.failed
    );

-- name: price_histogram
-- Last run's prices: whole dollars, rounded up, with their stones.
select ceil(d.feed_price)::integer as dollar, count(*) as stones
from diamonds as d
where d.feed = %(feed)s and d.status = 'active' and d.feed_price < 2000000000
group by ceil(d.feed_price)
order by ceil(d.feed_price);

-- name: carat_price_histogram
select ceil(d.price_per_carat)::integer as dollar, count(*) as stones
from diamonds as d
where d.feed = %(feed)s and d.status = 'active' and d.price_per_carat < 2000000000
group by ceil(d.price_per_carat)
order by ceil(d.price_per_carat);

-- name: insert_run
insert into run_metadata (run_id, feed, run_type, expected_workers, watermark_before, watermark_after, started_at)
values (
    %(run_id)s, %(feed)s, %(run_type)s, %(expected_workers)s, %(watermark_before)s, %(updated_to)s, %(started_at)s
);

-- name: insert_plan
insert into penstock.nivoda_plans (
    run_id, dag_id, dag_run_id, is_whole, price_from, price_to, key_field, is_touching, updated_from, updated_to,
    total, covered, count_calls, count_rounds, requests, settings
) values (
    %(run_id)s, %(dag_id)s, %(dag_run_id)s, %(is_whole)s, %(price_from)s, %(price_to)s, %(key_field)s,
    %(is_touching)s, %(updated_from)s, %(updated_to)s, %(total)s, %(covered)s, %(count_calls)s, %(count_rounds)s,
    %(requests)s, %(settings)s
);

-- name: insert_partitions
with planned as (
    insert into penstock.nivoda_partitions (
        run_id, partition_id, position, price_from, price_to, carats_from, carats_to, expected
    )
    select
        %(run_id)s, 'partition-' || n.place, n.place, n.price_from, n.price_to, n.carats_from, n.carats_to, n.expected
    from unnest(
        %(price_from)s::integer [], %(price_to)s::integer [], %(carats_from)s::numeric [], %(carats_to)s::numeric [],
        %(expected)s::integer []
    ) with ordinality as n (price_from, price_to, carats_from, carats_to, expected, place)
    returning run_id, partition_id
)

insert into partition_progress (run_id, partition_id)
select planned.run_id, planned.partition_id from planned;

-- name: run_of
select
    m.run_id::text as run_id, m.feed, m.run_type, m.started_at, m.completed_at, m.watermark_before,
    m.consolidation_completed_at, p.dag_id, p.dag_run_id, p.is_whole, p.price_from, p.price_to, p.key_field,
    p.is_touching, p.updated_from, p.updated_to, p.total, p.covered, p.count_calls, p.count_rounds, p.requests,
    p.settings, p.decision, p.vanished, p.watermark
from run_metadata as m
inner join penstock.nivoda_plans as p on m.run_id = p.run_id
where m.run_id = %(run_id)s;

-- name: partitions_of
select
    p.partition_id, p.position, p.price_from, p.price_to, p.carats_from, p.carats_to, p.expected, p.status, p.attempts,
    p.pass, p.c0, p.c1, p.distinct_read, p.rows_read, p.rows_written, p.unreadable, p.nameless, p.requests,
    p.seconds, p.error
from penstock.nivoda_partitions as p
where p.run_id = %(run_id)s
order by p.position;

-- name: reopen_run
update run_metadata set completed_at = null where run_id = %(run_id)s;

-- name: reopen_partitions
-- What a retry is to work on: the named partitions that are not complete, all of them when none is named. The
-- checkpoint stays.
with reopened as (
    update penstock.nivoda_partitions
    set status = 'PENDING', error = null, completed_at = null, updated_at = clock_timestamp()
    where
        run_id = %(run_id)s and status not in ('COMPLETED', 'INCOMPLETE')
        and (%(partition_ids)s::text [] is null or partition_id = any(%(partition_ids)s))
    returning run_id, partition_id
),

progress as (
    update partition_progress as g
    set failed = false, updated_at = now()
    from reopened
    where g.run_id = reopened.run_id and g.partition_id = reopened.partition_id
)

select reopened.partition_id from reopened;

-- name: begin_partition
-- Takes the partition under a new epoch. Nothing when it is complete.
with begun as (
    update penstock.nivoda_partitions
    set
        status = 'RUNNING', epoch = epoch + 1, attempts = attempts + 1, error = null,
        started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
    where run_id = %(run_id)s and partition_id = %(partition_id)s and status not in ('COMPLETED', 'INCOMPLETE')
    returning *
),

progress as (
    update partition_progress as g
    set failed = false, updated_at = now()
    from begun
    where g.run_id = begun.run_id and g.partition_id = begun.partition_id
),

worker as (
    insert into worker_runs as w (run_id, partition_id, worker_id, status, records_processed, work_item_payload)
    select
        begun.run_id, begun.partition_id, gen_random_uuid(), 'running', begun.rows_read, %(payload)s
    from begun
    on conflict (run_id, partition_id) do update set
        worker_id = excluded.worker_id, status = 'running', error_message = null, completed_at = null
)

select
    begun.partition_id, begun.price_from, begun.price_to, begun.carats_from, begun.carats_to, begun.expected,
    begun.epoch, begun.pass, begun.is_climbing, begun.next_offset, begun.c0, begun.c1, begun.rows_read,
    begun.unreadable
from begun;

-- name: save_page
-- One page and its checkpoint, in one statement: rows that are new or changed, the sighting of every stone, the keys
-- for the accounting. Nothing at all when somebody else has taken the partition, or has saved this page.
with claimed as (
    update penstock.nivoda_partitions
    set
        next_offset = %(next_offset)s,
        is_climbing = %(is_climbing)s,
        c0 = coalesce(c0, %(count)s),
        c1 = coalesce(%(count)s, c1),
        rows_read = rows_read + %(read)s,
        unreadable = unreadable + %(unreadable)s,
        nameless = nameless + %(nameless)s,
        is_unsteady = is_unsteady or %(is_unsteady)s,
        requests = requests + %(requests)s,
        seconds = seconds + %(seconds)s,
        updated_at = clock_timestamp()
    where
        run_id = %(run_id)s and partition_id = %(partition_id)s and epoch = %(epoch)s and pass = %(pass)s
        and status = 'RUNNING' and next_offset is not distinct from %(expected_offset)s
        and is_climbing = %(was_climbing)s
    returning run_id, partition_id, rows_read
),

page as (
    select
        n.stone_id, n.offer_id, sent.payload, n.payload_hash, n.dollar,
        (
            select r.payload_hash from raw_diamonds_nivoda as r
            where r.feed = %(feed)s and r.supplier_stone_id = n.stone_id
        ) as known_hash
    from unnest(
        %(stone_ids)s::text [], %(offer_ids)s::text [], %(hashes)s::text [], %(dollars)s::integer []
    ) with ordinality as n (stone_id, offer_id, payload_hash, dollar, place)
    -- One document: an array of documents would have to be quoted character by character.
    inner join jsonb_array_elements(%(payloads)s::jsonb) with ordinality as sent (payload, place)
        on n.place = sent.place
    cross join claimed
),

stored as (
    insert into raw_diamonds_nivoda as r (run_id, feed, supplier_stone_id, offer_id, payload, payload_hash)
    select
        %(run_id)s, %(feed)s, page.stone_id, page.offer_id, page.payload, page.payload_hash
    from page
    where page.known_hash is distinct from page.payload_hash
    order by page.stone_id
    on conflict (feed, supplier_stone_id) do update set
        run_id = excluded.run_id, offer_id = excluded.offer_id, payload = excluded.payload,
        payload_hash = excluded.payload_hash, consolidated = false, consolidation_status = 'pending',
        claimed_at = null, claimed_by = null, consolidated_at = null, updated_at = now()
    where r.payload_hash is distinct from excluded.payload_hash
    returning 1
),

sighted as (
    insert into penstock.stone_sightings (feed, supplier_stone_id, last_seen_run, last_seen_at, last_dollar)
    select
        %(feed)s, page.stone_id, %(run_id)s, coalesce(%(now)s::timestamptz, clock_timestamp()), page.dollar
    from page
    order by page.stone_id
    on conflict (feed, supplier_stone_id) do update set
        last_seen_run = excluded.last_seen_run, last_seen_at = excluded.last_seen_at, last_dollar = excluded.last_dollar
),

keyed as (
    insert into penstock.nivoda_page_keys (run_id, partition_id, key_hashes)
    select
        %(run_id)s, %(partition_id)s, array_agg(hashtextextended(n.key, 0))
    from unnest(%(keys)s::text []) as n (key)
    cross join claimed
    having count(*) > 0
),

progress as (
    update partition_progress as g
    set next_offset = greatest(%(next_offset)s, 0), updated_at = now()
    from claimed
    where g.run_id = claimed.run_id and g.partition_id = claimed.partition_id
),

worker as (
    update worker_runs as w
    set records_processed = claimed.rows_read
    from claimed
    where w.run_id = claimed.run_id and w.partition_id = claimed.partition_id
)

select (select count(*) from claimed) as claimed, (select count(*) from stored) as stored;

-- name: partition_state
select p.epoch, p.pass, p.is_climbing, p.next_offset, p.status
from penstock.nivoda_partitions as p
where p.run_id = %(run_id)s and p.partition_id = %(partition_id)s;

-- name: count_written
update penstock.nivoda_partitions
set rows_written = rows_written + %(written)s
where run_id = %(run_id)s and partition_id = %(partition_id)s and epoch = %(epoch)s;

-- name: account_pass
-- d, over all passes so far, with the counts it is compared with.
update penstock.nivoda_partitions as p
set distinct_read = penstock.stones_read(p.run_id, p.partition_id), updated_at = clock_timestamp()
where p.run_id = %(run_id)s and p.partition_id = %(partition_id)s and p.epoch = %(epoch)s
returning p.c0, p.c1, p.distinct_read, p.unreadable, p.nameless, p.rows_read, p.is_unsteady;

-- name: next_pass
update penstock.nivoda_partitions
set pass = pass + 1, is_climbing = true, next_offset = null, unreadable = 0, nameless = 0, is_unsteady = false,
    updated_at = clock_timestamp()
where run_id = %(run_id)s and partition_id = %(partition_id)s and epoch = %(epoch)s and pass = %(pass)s
returning pass;

-- name: repeat_pass
-- The pass begins anew, in its own order: too much of what it read was of no use.
update penstock.nivoda_partitions
set is_climbing = true, next_offset = null, unreadable = 0, nameless = 0, is_unsteady = false,
    updated_at = clock_timestamp()
where run_id = %(run_id)s and partition_id = %(partition_id)s and epoch = %(epoch)s
returning pass;

-- name: end_partition
-- COMPLETED or INCOMPLETE; the keys have done their work, and a debt is paid.
with ended as (
    update penstock.nivoda_partitions
    set status = %(status)s, completed_at = clock_timestamp(), error = null, updated_at = clock_timestamp()
    where
        run_id = %(run_id)s and partition_id = %(partition_id)s and epoch = %(epoch)s and status = 'RUNNING'
    returning run_id, partition_id, rows_read
),

progress as (
    update partition_progress as g
    set completed = true, failed = false, next_offset = 0, updated_at = now()
    from ended
    where g.run_id = ended.run_id and g.partition_id = ended.partition_id
),

worker as (
    update worker_runs as w
    set status = 'completed', completed_at = now(), records_processed = ended.rows_read, error_message = null
    from ended
    where w.run_id = ended.run_id and w.partition_id = ended.partition_id
),

keys as (
    delete from penstock.nivoda_page_keys as k
    using ended
    where k.run_id = ended.run_id and k.partition_id = ended.partition_id
),

debt as (
    delete from penstock.ingest_debt as b
    using ended
    where b.run_id = ended.run_id and b.partition_id = ended.partition_id
)

select count(*) as ended from ended;

-- name: fail_partition
-- Nothing when it is complete or has failed already, or when somebody else works on it.
with failed as (
    update penstock.nivoda_partitions
    set
        status = 'FAILED', error = %(error)s, distinct_read = penstock.stones_read(run_id, partition_id),
        updated_at = clock_timestamp()
    where
        run_id = %(run_id)s and partition_id = %(partition_id)s
        and (%(epoch)s::integer is null or epoch = %(epoch)s)
        and status not in ('COMPLETED', 'INCOMPLETE', 'FAILED')
    returning run_id, partition_id
),

progress as (
    update partition_progress as g
    set failed = true, updated_at = now()
    from failed
    where g.run_id = failed.run_id and g.partition_id = failed.partition_id and not g.failed and not g.completed
),

worker as (
    update worker_runs as w
    set status = 'failed', completed_at = now(), error_message = left(%(message)s, 2000)
    from failed
    where w.run_id = failed.run_id and w.partition_id = failed.partition_id
)

select failed.partition_id from failed;

-- name: settle_partitions
-- Whoever has not ended when the gate looks was killed: failed, under an epoch that keeps it from writing on.
with settled as (
    update penstock.nivoda_partitions
    set
        status = 'FAILED', epoch = epoch + 1, error = coalesce(error, %(error)s),
        distinct_read = penstock.stones_read(run_id, partition_id), updated_at = clock_timestamp()
    where run_id = %(run_id)s and status in ('PENDING', 'RUNNING')
    returning run_id, partition_id
),

progress as (
    update partition_progress as g
    set failed = true, updated_at = now()
    from settled
    where g.run_id = settled.run_id and g.partition_id = settled.partition_id
),

worker as (
    update worker_runs as w
    set status = 'failed', completed_at = now(), error_message = coalesce(w.error_message, 'the worker was killed')
    from settled
    where w.run_id = settled.run_id and w.partition_id = settled.partition_id
)

select count(*) as settled from settled;

-- name: run_counts
-- Counted from the partitions, never added up by racing workers.
update run_metadata as m
set
    expected_workers = c.expected,
    completed_workers = c.completed,
    failed_workers = c.failed
from (
    select
        count(*)::integer as expected,
        (count(*) filter (where p.status in ('COMPLETED', 'INCOMPLETE')))::integer as completed,
        (count(*) filter (where p.status = 'FAILED'))::integer as failed,
        (count(*) filter (where p.status = 'INCOMPLETE'))::integer as incomplete
    from penstock.nivoda_partitions as p
    where p.run_id = %(run_id)s
) as c
where m.run_id = %(run_id)s
returning c.expected, c.completed, c.failed, c.incomplete;

-- name: note_debts
-- A full run's unread ranges.
insert into penstock.ingest_debt (
    run_id, partition_id, feed, key_field, price_from, price_to, updated_from, updated_to
)
select
    p.run_id, p.partition_id, m.feed, n.key_field, p.price_from, p.price_to, n.updated_from, n.updated_to
from penstock.nivoda_partitions as p
inner join penstock.nivoda_plans as n on p.run_id = n.run_id
inner join run_metadata as m on p.run_id = m.run_id
where
    p.run_id = %(run_id)s and p.status not in ('COMPLETED', 'INCOMPLETE') and m.run_type = 'full' and n.is_whole
on conflict (run_id, partition_id) do nothing;

-- name: clear_debts
-- A complete full run has read whatever older ones owed.
delete from penstock.ingest_debt as b
using run_metadata as m, penstock.nivoda_plans as p
where
    m.run_id = %(run_id)s and p.run_id = m.run_id and b.feed = m.feed and b.run_id <> m.run_id
    and b.updated_to <= p.updated_to;

-- name: debts
select count(*) as owed from penstock.ingest_debt as b where b.feed = %(feed)s;

-- name: decide
update penstock.nivoda_plans set decision = %(decision)s where run_id = %(run_id)s;

-- name: begin_consolidation
with resumed as (
    -- What failed is tried again with the mapping of today; claims of the old worker older than half an hour are void.
    update raw_diamonds_nivoda
    set consolidation_status = 'pending', claimed_at = null, claimed_by = null
    where
        feed = %(feed)s and consolidated = false and payload is not null
        and (
            consolidation_status = 'failed' and %(retry_failed)s
            or consolidation_status = 'processing' and claimed_at < now() - interval '30 minutes'
        )
)

update run_metadata
set
    consolidation_started_at = coalesce(consolidation_started_at, now()),
    consolidation_total = (
        select count(*) from raw_diamonds_nivoda as r
        where r.feed = %(feed)s and r.consolidated = false and r.consolidation_status = 'pending'
    )
where run_id = %(run_id)s;

-- name: consolidate_batch
-- Raw -> canonical, one statement per batch. The hash of what the vendor says and the price that we make of it decide
-- whether anything is written.
with batch as materialized (
    select
        r.id, r.feed, r.supplier_stone_id, r.offer_id, r.run_id, r.source_updated_at, r.payload, r.payload_hash,
        r.payload -> 'diamond' as d,
        r.payload -> 'diamond' -> 'certificate' as c
    from raw_diamonds_nivoda as r
    where r.feed = %(feed)s and r.consolidated = false and r.consolidation_status = 'pending'
        and r.payload is not null
    order by r.created_at
    limit %(batch)s
    for update skip locked
),

measured as materialized (
    select
        batch.*,
        penstock.nivoda_number(batch.payload ->> 'price', 999999999999) / 100 as dollars,
        penstock.nivoda_measure(batch.c ->> 'carats', 9999) as stone_carats,
        nullif(upper(trim(batch.c ->> 'shape')), '') as stone_shape,
        penstock.nivoda_measure(batch.c ->> 'length', 9999) as stone_length,
        penstock.nivoda_measure(batch.c ->> 'width', 9999) as stone_width,
        nullif(upper(trim(batch.c ->> 'color')), '') as letter,
        nullif(nullif(trim(batch.c ->> 'f_color'), ''), 'null') as fancy
    from batch
),

judged as materialized (
    select
        measured.*,
        case
            when measured.dollars is null or measured.dollars <= 0 then 'price'
            when measured.stone_carats is null or measured.stone_carats <= 0 then 'carats'
            when measured.stone_shape is null then 'shape'
            when nullif(measured.d ->> 'availability', '') is null then 'availability'
            when greatest(measured.dollars * %(markup)s, measured.dollars / measured.stone_carats) >= 9999999999
                then 'price'
        end as unreadable
    from measured
),

mapped as (
    select
        j.feed,
        j.supplier_stone_id,
        j.offer_id,
        j.stone_shape as shape,
        round(j.stone_carats, 2) as carats,
        case when j.fancy is null and j.letter <> 'FANCY' then j.letter end as color,
        nullif(upper(j.c ->> 'clarity'), '') as clarity,
        nullif(upper(j.c ->> 'cut'), '') as cut,
        nullif(upper(j.c ->> 'polish'), '') as polish,
        nullif(upper(j.c ->> 'symmetry'), '') as symmetry,
        nullif(j.c ->> 'floCol', '') as fluorescence,
        case upper(j.c ->> 'floInt')
            when 'NON' then 'NONE'
            when 'VSL' then 'VERY SLIGHT'
            when 'SLT' then 'SLIGHT'
            when 'FNT' then 'FAINT'
            when 'MED' then 'MEDIUM'
            when 'STG' then 'STRONG'
            when 'STN' then 'STRONG'
            when 'VST' then 'VERY STRONG'
            else nullif(upper(j.c ->> 'floInt'), '')
        end as fluorescence_intensity,
        case when j.letter = 'FANCY' or j.fancy is not null then coalesce(j.fancy, 'FANCY') end as fancy_color,
        nullif(j.c ->> 'f_intensity', '') as fancy_intensity,
        nullif(j.c ->> 'f_overtone', '') as fancy_overtone,
        -- The vendor names every field that it is asked for, with null where it knows nothing: then the feed says it.
        coalesce(nullif(j.c -> 'labgrown', 'null') = 'true'::jsonb, %(is_labgrown)s) as lab_grown,
        (j.c -> 'treated') = 'true'::jsonb as treated,
        case
            when j.stone_length / j.stone_width < 99 then round(j.stone_length / j.stone_width, 3)
        end as ratio,
        round(j.dollars, 2) as feed_price,
        round(penstock.nivoda_number(j.payload ->> 'diamond_price', 999999999999) / 100, 2) as diamond_price,
        round(j.dollars / j.stone_carats, 2) as price_per_carat,
        penstock.nivoda_availability(j.d ->> 'availability') as availability,
        j.d ->> 'availability' as raw_availability,
        nullif(j.d ->> 'HoldId', '') as hold_id,
        coalesce(nullif(j.d ->> 'image', ''), nullif(j.c ->> 'image', '')) as image_url,
        coalesce(
            nullif(j.d ->> 'video', ''), nullif(j.d -> 'v360' ->> 'url', ''), nullif(j.c ->> 'video', '')
        ) as video_url,
        case when jsonb_typeof(j.d -> 'v360') = 'object' then jsonb_build_object('v360', j.d -> 'v360') end
        as meta_images,
        nullif(j.c ->> 'lab', '') as certificate_lab,
        nullif(j.c ->> 'certNumber', '') as certificate_number,
        nullif(j.c ->> 'pdfUrl', '') as certificate_pdf_url,
        round(penstock.nivoda_measure(j.c ->> 'table', 999), 2) as table_pct,
        round(penstock.nivoda_measure(j.c ->> 'depthPercentage', 999), 2) as depth_pct,
        round(j.stone_length, 2) as length_mm,
        round(j.stone_width, 2) as width_mm,
        round(penstock.nivoda_measure(j.c ->> 'depth', 9999), 2) as depth_mm,
        round(penstock.nivoda_measure(j.c ->> 'crownAngle', 999), 2) as crown_angle,
        round(penstock.nivoda_measure(j.c ->> 'crownHeight', 999), 2) as crown_height,
        round(penstock.nivoda_measure(j.c ->> 'pavAngle', 999), 2) as pavilion_angle,
        round(penstock.nivoda_measure(j.c ->> 'pavDepth', 999), 2) as pavilion_depth,
        nullif(j.c ->> 'girdle', '') as girdle,
        nullif(j.c ->> 'culetSize', '') as culet_size,
        case lower(trim(j.d ->> 'eyeClean')) when 'yes' then true when 'no' then false end as eye_clean,
        nullif(j.d ->> 'brown', '') as brown,
        nullif(j.d ->> 'green', '') as green,
        nullif(j.d ->> 'milky', '') as milky,
        j.d -> 'supplier' ->> 'name' as supplier_name,
        j.d -> 'supplier' ->> 'legal_name' as supplier_legal_name,
        j.source_updated_at
    from judged as j
    where j.unreadable is null
),

hashed as (
    select
        mapped.*,
        md5(mapped::text) as row_hash,
        round(mapped.feed_price * %(markup)s, 2) as price_model_price,
        round(%(markup)s::numeric, 4) as markup_ratio
    from mapped
),

written as (
    insert into diamonds as t (
        feed, supplier_stone_id, offer_id, shape, carats, color, clarity, cut, polish, symmetry, fluorescence,
        fluorescence_intensity, fancy_color, fancy_intensity, fancy_overtone, lab_grown, treated, ratio, feed_price,
        diamond_price, price_per_carat, availability, raw_availability, hold_id, image_url, video_url, meta_images,
        certificate_lab, certificate_number, certificate_pdf_url, table_pct, depth_pct, length_mm, width_mm, depth_mm,
        crown_angle, crown_height, pavilion_angle, pavilion_depth, girdle, culet_size, eye_clean, brown, green, milky,
        supplier_name, supplier_legal_name, source_updated_at, row_hash, price_model_price, markup_ratio
    )
    select hashed.* from hashed
    order by hashed.supplier_stone_id
    on conflict (feed, supplier_stone_id) do update set
        offer_id = excluded.offer_id, shape = excluded.shape, carats = excluded.carats, color = excluded.color,
        clarity = excluded.clarity, cut = excluded.cut, polish = excluded.polish, symmetry = excluded.symmetry,
        fluorescence = excluded.fluorescence, fluorescence_intensity = excluded.fluorescence_intensity,
        fancy_color = excluded.fancy_color, fancy_intensity = excluded.fancy_intensity,
        fancy_overtone = excluded.fancy_overtone, lab_grown = excluded.lab_grown, treated = excluded.treated,
        ratio = excluded.ratio, feed_price = excluded.feed_price, diamond_price = excluded.diamond_price,
        price_per_carat = excluded.price_per_carat, price_model_price = excluded.price_model_price,
        markup_ratio = excluded.markup_ratio, availability = excluded.availability,
        raw_availability = excluded.raw_availability, hold_id = excluded.hold_id, image_url = excluded.image_url,
        video_url = excluded.video_url, meta_images = excluded.meta_images,
        certificate_lab = excluded.certificate_lab, certificate_number = excluded.certificate_number,
        certificate_pdf_url = excluded.certificate_pdf_url, table_pct = excluded.table_pct,
        depth_pct = excluded.depth_pct, length_mm = excluded.length_mm, width_mm = excluded.width_mm,
        depth_mm = excluded.depth_mm, crown_angle = excluded.crown_angle, crown_height = excluded.crown_height,
        pavilion_angle = excluded.pavilion_angle, pavilion_depth = excluded.pavilion_depth,
        girdle = excluded.girdle, culet_size = excluded.culet_size, eye_clean = excluded.eye_clean,
        brown = excluded.brown, green = excluded.green, milky = excluded.milky,
        supplier_name = excluded.supplier_name, supplier_legal_name = excluded.supplier_legal_name,
        source_updated_at = excluded.source_updated_at, row_hash = excluded.row_hash,
        status = 'active', deleted_at = null, updated_at = now()
    where
        t.row_hash is distinct from excluded.row_hash or t.status <> 'active'
        or (t.price_model_price, t.markup_ratio) is distinct from (excluded.price_model_price, excluded.markup_ratio)
    returning 1
),

rejected as (
    insert into penstock.nivoda_rejected_stones as n (
        feed, run_id, supplier_stone_id, reason_code, reason, payload, payload_hash
    )
    select
        judged.feed, judged.run_id, judged.supplier_stone_id,
        case
            when coalesce(
                case judged.unreadable
                    when 'price' then judged.payload ->> 'price'
                    when 'availability' then judged.d ->> 'availability'
                    else judged.c ->> judged.unreadable
                end, ''
            ) = '' then 'MISSING_KEY'
            else 'WRONG_TYPE'
        end,
        judged.unreadable || ' is missing or unreadable', judged.payload::text,
        judged.supplier_stone_id || ':' || judged.payload_hash
    from judged
    where judged.unreadable is not null
    order by judged.supplier_stone_id
    on conflict (feed, payload_hash) do update set
        run_id = excluded.run_id, last_seen_at = now(), seen = n.seen + 1
),

done as (
    update raw_diamonds_nivoda as r
    set
        consolidated = judged.unreadable is null,
        consolidation_status = case when judged.unreadable is null then 'done' else 'failed' end,
        consolidated_at = case when judged.unreadable is null then now() end,
        payload = case when judged.unreadable is null and %(drop_payload)s then null else r.payload end,
        updated_at = now()
    from judged
    where r.id = judged.id
)

select
    (select count(*) from judged) as taken,
    (select count(*) from written) as written,
    (select count(*) from judged where judged.unreadable is not null) as errors;

-- name: has_other_markup
-- Whether any stone of the feed has another price than the configured markup makes: told without an order, so that a
-- feed of which nothing is to be written is read once, as it lies.
select exists(
    select 1 from diamonds as d
    where
        d.feed = %(feed)s and d.status = 'active' and d.feed_price * %(markup)s < 9999999999
        and (d.price_model_price, d.markup_ratio) is distinct from (
            round(d.feed_price * %(markup)s, 2), round(%(markup)s::numeric, 4)
        )
) as is_found;

-- name: mark_up_batch
-- The next stones that have not changed since the markup has. In the order of their ids, as they are consolidated in:
-- workers that meet wait for each other, and the second finds nothing to write. A stone that has left keeps its last
-- price, one that would become dearer than the column holds keeps what it has, as in the consolidation.
with batch as materialized (
    select d.id, d.supplier_stone_id
    from diamonds as d
    where
        d.feed = %(feed)s and d.supplier_stone_id > %(after)s
        and d.status = 'active' and d.feed_price * %(markup)s < 9999999999
        and (d.price_model_price, d.markup_ratio) is distinct from (
            round(d.feed_price * %(markup)s, 2), round(%(markup)s::numeric, 4)
        )
    order by d.supplier_stone_id
    limit %(batch)s
    for no key update
),

repriced as (
    update diamonds as d
    set
        price_model_price = round(d.feed_price * %(markup)s, 2), markup_ratio = round(%(markup)s::numeric, 4),
        updated_at = now()
    from batch
    where d.id = batch.id
    returning 1
)

select
    (select max(batch.supplier_stone_id) from batch) as last_stone,
    (select count(*) from repriced) as repriced;

-- name: count_consolidated
update run_metadata
set
    consolidation_processed = consolidation_processed + %(processed)s,
    consolidation_errors = consolidation_errors + %(errors)s
where run_id = %(run_id)s;

-- name: end_consolidation
-- The version that readers key their caches by: raised by a run's first consolidation, and by a later one that wrote.
with raised as (
    insert into dataset_versions as v (feed, version, updated_at)
    select m.feed, 1, now()
    from run_metadata as m
    where m.run_id = %(run_id)s and (m.consolidation_completed_at is null or %(written)s > 0)
    on conflict (feed) do update set version = v.version + 1, updated_at = now()
    returning version
)

update run_metadata
set consolidation_completed_at = now()
where run_id = %(run_id)s
returning (select version from raised) as version;

-- name: reject_items
-- Items of a page that hold no stone.
insert into penstock.nivoda_rejected_stones as n (
    feed, run_id, supplier_stone_id, reason_code, reason, payload, payload_hash
)
select
    %(feed)s, %(run_id)s, r.stone_id, r.code, left(r.reason, 500), r.payload, r.payload_hash
from unnest(
    %(stone_ids)s::text [], %(codes)s::text [], %(reasons)s::text [], %(payloads)s::text [], %(hashes)s::text []
) as r (stone_id, code, reason, payload, payload_hash)
order by r.payload_hash
on conflict (feed, payload_hash) do update set
    run_id = excluded.run_id, last_seen_at = now(), seen = n.seen + 1;

-- name: vanished_counts
-- Active stones, and those of them that were not seen since the run began.
select
    count(*) as active,
    count(*) filter (
        where coalesce(s.last_seen_at, '-infinity') < %(started_at)s
    ) as candidates
from diamonds as d
left join penstock.stone_sightings as s on d.feed = s.feed and d.supplier_stone_id = s.supplier_stone_id
where d.feed = %(feed)s and d.status = 'active';

-- name: proofs
-- Full runs of ours before this one that asked the same and read all there was: when the last one began, and the last
-- one after which another run has read all that it was to read. And whether a run has done so since this one began.
-- What the old worker's runs saw is not known; where a partition is incomplete, or an item told no id, a stone that was
-- not seen may have been there.
with own as (
    select m.feed, m.started_at, p.settings -> 'base_filter' as base_filter
    from run_metadata as m
    inner join penstock.nivoda_plans as p on m.run_id = p.run_id
    where m.run_id = %(run_id)s
),

readings as materialized (
    select
        m.run_type, m.started_at, m.started_at < own.started_at as is_before, m.started_at > own.started_at as is_later
    from own
    inner join run_metadata as m on own.feed = m.feed
    inner join penstock.nivoda_plans as p on m.run_id = p.run_id
    where
        m.completed_at is not null and p.is_whole and (m.run_type = 'incremental' or m.expected_workers > 0)
        and p.settings -> 'base_filter' is not distinct from own.base_filter
        and not exists (
            select from penstock.nivoda_partitions as g
            where g.run_id = m.run_id and (g.status <> 'COMPLETED' or g.nameless > 0)
        )
)

select
    max(r.started_at) filter (where r.is_before and r.run_type = 'full') as last_full,
    max(r.started_at) filter (
        where r.run_type = 'full'
        and r.started_at < (select max(l.started_at) from readings as l where l.is_before)
    ) as full_before_last_run,
    coalesce(bool_or(r.is_later), false) as is_read_since
from readings as r;

-- name: delete_twice_missing
-- Not seen by this full run nor since the complete one that began at `before`. The raw row forgets its hash, so that a
-- stone which comes back unchanged is consolidated again.
with gone as (
    update diamonds as d
    set status = 'deleted', deleted_at = now(), availability = 'unavailable', updated_at = now()
    where
        d.feed = %(feed)s and d.status = 'active'
        and not exists (
            select from penstock.stone_sightings as s
            where s.feed = d.feed and s.supplier_stone_id = d.supplier_stone_id and s.last_seen_at >= %(before)s
        )
    returning d.feed, d.supplier_stone_id
),

forgotten as (
    update raw_diamonds_nivoda as r
    set payload_hash = ''
    from gone
    where r.feed = gone.feed and r.supplier_stone_id = gone.supplier_stone_id
)

select count(*) as deleted from gone;

-- name: candidates
-- Missing in this full run only: to be looked up, the longest unseen first.
select d.supplier_stone_id, d.certificate_number
from diamonds as d
left join penstock.stone_sightings as s on d.feed = s.feed and d.supplier_stone_id = s.supplier_stone_id
where
    d.feed = %(feed)s and d.status = 'active' and d.certificate_number is not null
    and coalesce(s.last_seen_at, '-infinity') < %(started_at)s
order by s.last_seen_at nulls first, d.supplier_stone_id
limit %(limit)s;

-- name: delete_looked_up
-- What the look-up says is gone, with the availability it told. Not what has been seen again meanwhile.
with gone as (
    update diamonds as d
    set status = 'deleted', deleted_at = now(), availability = penstock.nivoda_gone(n.raw_availability),
        updated_at = now()
    from unnest(%(stone_ids)s::text [], %(raw_availabilities)s::text []) as n (stone_id, raw_availability)
    where
        d.feed = %(feed)s and d.supplier_stone_id = n.stone_id and d.status = 'active'
        and not exists (
            select from penstock.stone_sightings as s
            where s.feed = d.feed and s.supplier_stone_id = d.supplier_stone_id and s.last_seen_at >= %(started_at)s
        )
    returning d.feed, d.supplier_stone_id
),

forgotten as (
    update raw_diamonds_nivoda as r
    set payload_hash = ''
    from gone
    where r.feed = gone.feed and r.supplier_stone_id = gone.supplier_stone_id
)

select count(*) as deleted from gone;

-- name: sight_looked_up
-- A stone that the look-up finds for sale was seen.
insert into penstock.stone_sightings (feed, supplier_stone_id, last_seen_run, last_seen_at)
select
    %(feed)s, n.stone_id, %(run_id)s, coalesce(%(now)s::timestamptz, clock_timestamp())
from unnest(%(stone_ids)s::text []) as n (stone_id)
order by n.stone_id
on conflict (feed, supplier_stone_id) do update set
    last_seen_run = excluded.last_seen_run, last_seen_at = excluded.last_seen_at;

-- name: note_vanished
update penstock.nivoda_plans
set vanished = %(vanished)s, requests = requests + %(requests)s
where run_id = %(run_id)s;

-- name: move_watermark
-- Only from where it stood when the run was planned, and only forwards. Asked again, it says that the run has moved it.
insert into penstock.feed_watermarks as w (feed, updated_to, run_id, run_type)
select m.feed, p.updated_to, m.run_id, m.run_type
from run_metadata as m
inner join penstock.nivoda_plans as p on m.run_id = p.run_id
where m.run_id = %(run_id)s
on conflict (feed) do update set
    updated_to = excluded.updated_to, run_id = excluded.run_id, run_type = excluded.run_type,
    updated_at = clock_timestamp()
where
    w.updated_to is not distinct from %(watermark_before)s and w.updated_to < excluded.updated_to
    or w.run_id = excluded.run_id
returning w.updated_to;

-- name: note_watermark
update penstock.nivoda_plans set watermark = %(watermark)s where run_id = %(run_id)s;

-- name: distinct_stones
-- Stones that this run was the last to see: distinct over its partitions, whose borders may share some.
select count(*) as stones
from penstock.stone_sightings as s
where s.feed = %(feed)s and s.last_seen_run = %(run_id)s;

-- name: end_run
update run_metadata set completed_at = now() where run_id = %(run_id)s;

-- name: note_summary
update penstock.nivoda_plans
set summary = %(summary)s, chart_svg = %(chart)s, error = %(error)s
where run_id = %(run_id)s;

-- name: log_error
insert into error_logs (service, error_message, context) values (%(service)s, %(message)s, %(context)s);
