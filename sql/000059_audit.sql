-- The audit log. A change inserts its row in its own transaction. Instances of the version before record nothing.
-- functions: 836a5132922869d56ae729fbc7fc14cefe01e155316bf0909d13fd2e37bb686b

create table audit_events (
  id uuid not null,
  at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  action text not null,
  actor_kind text not null,
  actor_id uuid,
  service_key_id uuid,
  session_id uuid,
  target_type text not null,
  target_id text,
  user_id uuid,
  team_id uuid,
  request_id text not null,
  before json,
  after json,
  count integer not null default 1,
  details_hash bytea,
  mac bytea not null,
  constraint audit_events_pkey primary key (id, at)
) partition by range (at);
comment on table audit_events is 'The audit log: who did what to which resource. Rows are only added. They name people by id alone.';
comment on column audit_events.at is 'When the row was inserted, by the clock of Postgres. Decides the partition and the chain: both are by month in UTC.';
comment on column audit_events.xid is 'The transaction that inserted the row. Rows of transactions that are all over are linked in this order.';
comment on column audit_events.actor_kind is 'user, service, system, or anonymous: a client that did not sign in.';
comment on column audit_events.service_key_id is 'The service that acted, or acted for the user.';
comment on column audit_events.target_id is 'Of the resource. Text, because a flag, a mode or a limit has a name in place of a UUID.';
comment on column audit_events.user_id is 'The account that the event concerns, where it is not that of the actor.';
comment on column audit_events.team_id is 'The team that the event concerns. Its owner may read the event.';
comment on column audit_events.before is 'Values before the change, without personal data and secrets. json, because the chain covers the text.';
comment on column audit_events.after is 'Values after the change, without personal data and secrets.';
comment on column audit_events.count is 'How many equal decisions of one minute the row stands for.';
comment on column audit_events.details_hash is 'SHA-256 of salt and details of the row in audit_details. Null where there are none.';
comment on column audit_events.mac is 'HMAC-SHA-256 of the values that the program gave, under a wrapped key: a row that another program inserted has none.';
create index audit_events__xid on audit_events (xid);
create index audit_events__actor on audit_events (actor_id, id) where actor_id is not null;
create index audit_events__user on audit_events (user_id, id) where user_id is not null;
create index audit_events__team on audit_events (team_id, id) where team_id is not null;
create index audit_events__target on audit_events (target_id, id) where target_id is not null;
create table audit_events_default partition of audit_events default;

create table audit_details (
  event_id uuid not null,
  at timestamptz not null,
  user_id uuid,
  salt bytea not null,
  details text not null,
  constraint audit_details_pkey primary key (event_id, at)
) partition by range (at);
comment on table audit_details is 'Personal data of events: address, user agent, names. Deleted when the account is closed; the event keeps the hash.';
comment on column audit_details.user_id is 'Whose personal data it is: the actor, else the account concerned. Null where neither is known.';
comment on column audit_details.salt is '16 random bytes, without which the hash of an address could be found by trying all addresses.';
comment on column audit_details.details is 'JSON. Text, because the hash covers its bytes.';
create index audit_details__user on audit_details (user_id) where user_id is not null;
create table audit_details_default partition of audit_details default;

create table audit_links (
  at timestamptz not null,
  sequence bigint not null,
  event_id uuid not null,
  event_at timestamptz not null,
  row_hash bytea not null,
  hash bytea not null,
  constraint audit_links_pkey primary key (at, sequence)
) partition by range (at);
comment on table audit_links is 'The hash chain over the events of each month, in the order in which they were linked.';
comment on column audit_links.at is 'The first moment of the month in UTC, which names the chain.';
comment on column audit_links.sequence is 'Position in the chain of the month, from 1, without gaps.';
comment on column audit_links.row_hash is 'SHA-256 of the event.';
comment on column audit_links.hash is 'SHA-256 of month, sequence, the hash of the link before and row_hash.';
create index audit_links__event on audit_links (event_id);
create table audit_links_default partition of audit_links default;

create table audit_heads (
  month timestamptz not null,
  token text not null,
  dropped_at timestamptz,
  constraint audit_heads_pkey primary key (month)
);
comment on table audit_heads is 'The newest signed head of the chain of each month. Heads of dropped months stay.';
comment on column audit_heads.token is 'Compact JWS by a signing key: month, sequence and hash of the newest link, and the head of the month before at the first link.';

create table audit_checkpoints (
  month timestamptz not null,
  sequence bigint not null,
  token text not null,
  constraint audit_checkpoints_pkey primary key (month, sequence)
);
comment on table audit_checkpoints is 'Signed links in regular distances, which narrow down where a chain was computed again.';

create table audit_keys (
  kid text not null,
  public_jwk jsonb not null,
  mac bytea not null,
  created_at timestamptz not null default now(),
  constraint audit_keys_pkey primary key (kid)
);
comment on table audit_keys is 'Public halves of the signing keys that signed heads, kept after the signing keys are gone.';
comment on column audit_keys.mac is 'HMAC-SHA-256 of kid and key, under a wrapped key: another program can add no key.';

create table audit_cursor (
  singleton boolean not null default true,
  xid xid8 not null,
  server text not null,
  constraint audit_cursor_pkey primary key (singleton),
  constraint audit_cursor__singleton check (singleton)
);
comment on table audit_cursor is 'Every event of a transaction before this one is linked. One row.';
comment on column audit_cursor.server is 'The server and database that the transaction ids are of: a restored copy counts anew.';

create table audit_decisions (
  minute timestamptz not null,
  fingerprint bytea not null,
  content json not null,
  count integer not null,
  constraint audit_decisions_pkey primary key (minute, fingerprint)
);
comment on table audit_decisions is 'Denied decisions of the current minute, equal ones counted in one row. Later ones become events.';
comment on column audit_decisions.fingerprint is 'SHA-256 of what makes decisions equal.';

-- As in functions/audit-partitions.sql, which is applied after this file.
create or replace function create_audit_partitions(ahead integer) returns integer
  language plpgsql set search_path from current as $$
declare
  parent text;
  step integer;
  month timestamptz;
  next_month timestamptz;
  name text;
  created integer := 0;
begin
  perform set_config('lock_timeout', '1s', true);
  foreach parent in array array['audit_events', 'audit_details', 'audit_links'] loop
    for step in 0..ahead loop
      month := (date_trunc('month', clock_timestamp() at time zone 'UTC') + make_interval(months => step)) at time zone 'UTC';
      next_month := ((month at time zone 'UTC') + interval '1 month') at time zone 'UTC';
      name := parent || to_char(month at time zone 'UTC', '_YYYY_MM');
      if to_regclass(name) is not null then continue; end if;
      execute format('lock table %I in access exclusive mode', parent || '_default');
      if to_regclass(name) is not null then continue; end if;
      execute format('create table %I (like %I including all)', name, parent);
      execute format('with moved as (delete from %I where at >= %L and at < %L returning *) insert into %I select * from moved',
        parent || '_default', month, next_month, name);
      execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, name, month, next_month);
      created := created + 1;
    end loop;
  end loop;
  return created;
end $$;
select create_audit_partitions(2);
