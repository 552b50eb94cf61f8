-- Whether a pass has seen stones come again in a way that no stones leaving can explain: ties in the vendor's order
-- then fall anew in every request, and a stone that came twice stands where another one should have been.
alter table penstock.nivoda_partitions add column is_unsteady boolean not null default false;
