-- Every sweep asks whether the rows that wait are still where their configurations want them: one probe of this index
-- per configuration and lane that have such rows.
create index notification_queue_waiting_idx on public.notification_queue (config_id, lane_key)
where state = 'queued' and lane_key is not null;
