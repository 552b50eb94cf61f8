-- Slack hears of a DAG once a minute at most: an alert is written here first, and goes out with the others of its DAG.

create table if not exists penstock.held_alerts (
    alert_id bigint generated always as identity primary key,
    dag_id text not null,
    body text not null,                  -- as Slack gets it: redacted and escaped
    held_at timestamptz not null default now()
);
create index if not exists held_alerts_by_dag on penstock.held_alerts (dag_id, alert_id);
