-- Whose turn it is, by the order in which turns are asked for: many workspaces that were woken together have the same
-- time, and an index by the time alone made every claim read and sort all of them.

create index if not exists calendar_lanes_order_idx on penstock.calendar_lanes (next_turn_at, workspace_id);
drop index if exists penstock.calendar_lanes_turn_idx;
