-- Alerts: metrics that are far above their targets. Only adds tables, a function and a trigger: instances of the version before open
-- no alerts, and know no webhook that wants them.
-- functions: 397904afef2cd7ae8390e58411c9e46127fba9bb2877423538aed883c0d3b278

create table alerts (
  id uuid not null,
  metric text not null,
  severity text not null,
  value double precision not null,
  target double precision not null,
  samples bigint not null,
  opened_at timestamptz not null,
  raised_at timestamptz,
  cleared_at timestamptz,
  constraint alerts_pkey primary key (id),
  constraint alerts__severity check (severity in ('warning', 'critical')),
  constraint alerts__cleared_after_opened check (cleared_at >= opened_at)
);
comment on table alerts is 'Metrics that were far above their targets, of all instances together. Names no person.';
comment on column alerts.metric is 'An open alert is the only one of its metric.';
comment on column alerts.severity is 'The highest since it opened.';
comment on column alerts.value is 'The highest value since it opened: milliseconds of the P95, or a share of misses or errors.';
comment on column alerts.samples is 'In the window in which it opened, or in which its severity rose.';
comment on column alerts.cleared_at is 'Null: it is open.';
create unique index alerts__open on alerts (metric) where cleared_at is null;
create index alerts__cleared_at on alerts (cleared_at);

create table alert_evaluator (
  only_row boolean not null default true,
  holder text not null,
  lease_until timestamptz not null,
  constraint alert_evaluator_pkey primary key (only_row),
  constraint alert_evaluator__only_row check (only_row)
);
comment on table alert_evaluator is 'The instance with the lease opens and clears alerts. At most one row.';

create or replace function webhook_on_alert() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger webhooks_by_insert after insert on alerts
  for each row execute function webhook_on_alert('alert.opened');
create trigger webhooks_by_severity after update of severity on alerts
  for each row when (old.severity is distinct from new.severity) execute function webhook_on_alert('alert.raised');
create trigger webhooks_by_clearing after update of cleared_at on alerts
  for each row when (old.cleared_at is null and new.cleared_at is not null) execute function webhook_on_alert('alert.cleared');
