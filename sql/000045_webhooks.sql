-- Webhooks: what happens is recorded by triggers in the transaction of the change, and sent afterwards. Only adds tables and
-- triggers: where no webhook is registered they write nothing, and instances of the version before run beside them.
-- functions: ca2854b699e295a08e30d7f1a4bfd90105853197ec247b3392ff3ba2716df286

create table webhooks (
  id uuid not null,
  team_id uuid references teams (id) on delete cascade,
  url text not null,
  events text[] not null,
  description text not null default '',
  enabled boolean not null default true,
  gone boolean not null default false,
  secret bytea not null,
  previous_secret bytea,
  previous_secret_until timestamptz,
  responsible_id uuid not null references users (id),
  created_at timestamptz not null,
  updated_at timestamptz not null,
  failures integer not null default 0,
  resume_at timestamptz,
  last_success_at timestamptz,
  constraint webhooks_pkey primary key (id),
  constraint webhooks__url_length check (length(url) between 1 and 2048),
  constraint webhooks__description_length check (length(description) <= 200),
  constraint webhooks__has_events check (cardinality(events) > 0),
  constraint webhooks__previous_secret_ends check ((previous_secret is null) = (previous_secret_until is null))
);
comment on table webhooks is 'Addresses to which events are sent, registered by operators and by admins of teams.';
comment on column webhooks.team_id is 'Null: registered by an operator, for events of all accounts.';
comment on column webhooks.gone is 'The receiver answered 410, which disabled the webhook.';
comment on column webhooks.secret is 'The signing secret, sealed.';
comment on column webhooks.previous_secret is 'The secret before the last rotation, sealed. It signs too until previous_secret_until.';
comment on column webhooks.responsible_id is 'Who last set the address. A webhook of a team is sent only while this account is active and an admin or the owner of the team.';
comment on column webhooks.failures is 'Consecutive attempts that failed, over all deliveries.';
comment on column webhooks.resume_at is 'After too many failures nothing is sent before.';
create index webhooks__team_id on webhooks (team_id, id);

create table webhook_events (
  id uuid not null,
  ordinal bigint generated always as identity,
  type text not null,
  resource text not null,
  data jsonb not null,
  occurred_at timestamptz not null default clock_timestamp(),
  constraint webhook_events_pkey primary key (id)
);
comment on table webhook_events is 'What happened, by ids only, for 30 days. Written by triggers in the transaction of the change, if a webhook wants it.';
comment on column webhook_events.ordinal is 'Order in which the events were recorded: of changes that exclude each other, the one committed later has the higher.';
comment on column webhook_events.resource is 'The resource within which events are delivered in order, such as team:<id>.';
create index webhook_events__occurred_at on webhook_events (occurred_at);

create table webhook_deliveries (
  webhook_id uuid not null,
  event_id uuid not null references webhook_events (id) on delete cascade,
  ordinal bigint not null,
  resource text not null,
  state text not null default 'pending',
  queued_at timestamptz not null default clock_timestamp(),
  due_at timestamptz,
  lease_until timestamptz,
  attempts integer not null default 0,
  last_attempt_at timestamptz,
  response_status integer,
  error text,
  delivered_at timestamptz,
  constraint webhook_deliveries_pkey primary key (webhook_id, event_id),
  constraint webhook_deliveries__state check (state in ('pending', 'delivered', 'failed')),
  constraint webhook_deliveries__error check (error in ('timeout', 'connection', 'tls', 'address', 'url', 'status')),
  constraint webhook_deliveries__delivered_has_time check ((state = 'delivered') <= (delivered_at is not null))
);
comment on table webhook_deliveries is 'The queue: one row for each event and webhook that wants it, with the state of its delivery.';
comment on column webhook_deliveries.webhook_id is 'No foreign key: its lock would make changes wait for a webhook that is being removed. Rows without a webhook are purged.';
comment on column webhook_deliveries.queued_at is 'When it was recorded, or last replayed. Attempts end 24 hours later.';
comment on column webhook_deliveries.due_at is 'When it may be sent. Null until a sender has noticed it.';
comment on column webhook_deliveries.attempts is 'Also the fencing token: the result of an attempt is stored only while it is the last.';
create index webhook_deliveries__event_id on webhook_deliveries (event_id);
-- The two conditions mean the same and are written in two ways, so that each part of the lease has one index that fits, also on
-- a connection that planned it while the table was empty.
create index webhook_deliveries__waiting on webhook_deliveries (webhook_id, ordinal) where state = 'pending';
create index webhook_deliveries__in_order on webhook_deliveries (webhook_id, resource, ordinal)
  where state <> 'delivered' and state <> 'failed';
create index webhook_deliveries__failed on webhook_deliveries (webhook_id, event_id) where state = 'failed';
create index webhook_deliveries__unnoticed on webhook_deliveries (ordinal) where due_at is null;

create or replace function webhook_on_new_users() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_user_status() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_session_end() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_members() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_role() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_grant() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_visibility() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_access() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function webhook_on_generation_end() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger webhooks_by_insert after insert on users
  referencing new table as added for each statement execute function webhook_on_new_users();
create trigger webhooks_by_status after update of status on users
  for each row when (old.status is distinct from new.status) execute function webhook_on_user_status();
create trigger webhooks_by_end after update of ended_at on sessions
  for each row when (old.ended_at is null and new.ended_at is not null) execute function webhook_on_session_end();
create trigger webhooks_by_delete after delete on sessions
  for each row when (old.ended_at is null and least(old.idle_expires_at, old.expires_at) > now())
  execute function webhook_on_session_end();
create trigger webhooks_by_insert after insert on team_members
  referencing new table as changed for each statement execute function webhook_on_members('team.member_added');
create trigger webhooks_by_delete after delete on team_members
  referencing old table as changed for each statement execute function webhook_on_members('team.member_removed');
create trigger webhooks_by_role after update of role on team_members
  for each row when (old.role is distinct from new.role) execute function webhook_on_role();
create trigger webhooks_by_change after insert or delete or update of access_level on project_grants
  for each row execute function webhook_on_grant();
create trigger webhooks_by_visibility after update of visibility on projects
  for each row when (old.visibility is distinct from new.visibility) execute function webhook_on_visibility();
create trigger webhooks_by_delete after delete on projects
  for each row when (old.visibility = 'public') execute function webhook_on_visibility();
create trigger webhooks_by_insert after insert on project_access
  referencing new table as changed for each statement execute function webhook_on_access();
create trigger webhooks_by_update after update on project_access
  referencing new table as changed for each statement execute function webhook_on_access();
create trigger webhooks_by_delete after delete on project_access
  referencing old table as changed for each statement execute function webhook_on_access();
create trigger webhooks_by_status after update of status on generations
  for each row when (old.status is distinct from new.status and new.status in ('completed', 'failed'))
  execute function webhook_on_generation_end();
