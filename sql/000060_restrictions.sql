-- Modes of the service, and blocks of addresses, networks, accounts and service keys. Instances of the version before run beside
-- this schema and know neither: they take requests as in the normal mode, so set modes and blocks once none of them is left.
-- functions: 02a8056bc7fb907592aaa0b9c4c9adb4f6d85ff858719e49085b65fd89e0a309

alter table users add column blocked boolean not null default false;
comment on column users.blocked is 'Whether there is a block of the account. Kept by a trigger of blocks.';
alter table service_keys add column blocked boolean not null default false;
comment on column service_keys.blocked is 'Whether there is a block of the key. Kept by a trigger of blocks.';

create table restrictions (
  id uuid not null default '00000000-0000-0000-0000-000000000000',
  mode text not null default 'normal',
  reason text not null default '',
  set_by uuid references users (id),
  set_at timestamptz not null default now(),
  expires_at timestamptz,
  networks jsonb not null default '[]',
  constraint restrictions_pkey primary key (id),
  constraint restrictions__only_row check (id = '00000000-0000-0000-0000-000000000000'),
  constraint restrictions__mode check (mode in ('normal', 'no-register', 'read-only', 'lockdown')),
  constraint restrictions__reason_length check (length(reason) <= 500),
  constraint restrictions__normal_stays check (mode <> 'normal' or expires_at is null)
);
comment on table restrictions is 'One row: what restricts the whole service. Without it every instance is locked down.';
comment on column restrictions.mode is 'In force on every instance. The instances read it as a fact, which triggers invalidate.';
comment on column restrictions.set_by is 'The operator; null where the mode expired or was lifted from the command line.';
comment on column restrictions.expires_at is 'From then on an instance sets the mode back to normal.';
comment on column restrictions.networks is 'The blocked networks, in CIDR notation. Kept by a trigger of blocks.';
insert into restrictions default values;

create table blocks (
  id uuid not null,
  kind text not null,
  network cidr,
  user_id uuid references users (id) on delete cascade,
  key_id uuid references service_keys (id) on delete cascade,
  source text not null,
  reason text not null,
  created_by uuid references users (id),
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  constraint blocks_pkey primary key (id),
  constraint blocks__kind check (kind in ('address', 'network', 'user', 'key')),
  constraint blocks__target check (num_nonnulls(network, user_id, key_id) = 1 and (kind = 'user') = (user_id is not null)
                                   and (kind = 'key') = (key_id is not null)),
  constraint blocks__source check (source in ('operator', 'anomaly')),
  constraint blocks__reason_length check (length(reason) <= 500),
  constraint blocks__network unique (network, source),
  constraint blocks__user_id unique (user_id, source),
  constraint blocks__key_id unique (key_id, source)
);
comment on table blocks is 'What is blocked now. A row is deleted when the block is removed or has expired, and a block of an account with the account.';
comment on column blocks.network is 'Of an address: itself, or the /64 network of an IPv6 address.';
comment on column blocks.source is 'Who blocked it: an operator, or the detection of anomalies.';
comment on column blocks.created_by is 'The operator; null for the detection of anomalies.';
create index blocks__expires_at on blocks (expires_at);

create function note_changed_restrictions() returns trigger language plpgsql set search_path from current as
  $$ begin return null; end $$;
create function apply_blocks() returns trigger language plpgsql set search_path from current as
  $$ begin return null; end $$;

create trigger touched_by_insert after insert on restrictions
  referencing new table as after for each statement execute function note_changed_restrictions();
create trigger touched_by_update after update on restrictions
  referencing new table as after for each statement execute function note_changed_restrictions();
create trigger mode_touched_by_delete after delete on restrictions
  referencing old table as before for each statement execute function note_removed('mode');
create trigger networks_touched_by_delete after delete on restrictions
  referencing old table as before for each statement execute function note_removed('blocked_networks');
create trigger touched_by_truncate after truncate on restrictions for each statement execute function note_everything();

create trigger applied_by_insert after insert on blocks
  referencing new table as changed for each statement execute function apply_blocks();
create trigger applied_by_delete after delete on blocks
  referencing old table as changed for each statement execute function apply_blocks();
create trigger applied_by_update_of_old after update on blocks
  referencing old table as changed for each statement execute function apply_blocks();
create trigger applied_by_update_of_new after update on blocks
  referencing new table as changed for each statement execute function apply_blocks();
