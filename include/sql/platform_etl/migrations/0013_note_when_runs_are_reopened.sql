-- A run that has ended begins again when a person clears its task, perhaps days later.
alter table core_warehouse.etl_runs
add column reopened_at timestamptz;  -- when it was cleared last
