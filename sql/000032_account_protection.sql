-- Failed sign-ins are counted, known devices are not locked out by them, and owners are given notice. Only adds tables: the
-- version before runs on it, and counts no failures.

create table known_devices (
  token_hash bytea not null,
  user_id uuid not null references users (id) on delete cascade,
  session_id uuid references sessions (id) on delete set null,
  created_at timestamptz not null,
  last_used_at timestamptz not null,
  expires_at timestamptz not null,
  constraint known_devices_pkey primary key (token_hash),
  constraint known_devices__token_hash_length check (length(token_hash) = 32)
);
comment on table known_devices is 'Devices on which an account has signed in. Failed sign-ins elsewhere do not lock them out. Their tokens alone are no credential.';
comment on column known_devices.token_hash is 'SHA-256 of the device token.';
comment on column known_devices.session_id is 'The session that the last sign-in with this token opened. Null once that session is purged.';
create index known_devices__user_id on known_devices (user_id, last_used_at);
create index known_devices__session_id on known_devices (session_id) where session_id is not null;
create index known_devices__expires_at on known_devices (expires_at);

create table sign_in_failures (
  account_hash bytea not null,
  source text not null,
  failures integer not null,
  last_failed_at timestamptz not null,
  paused_until timestamptz,
  constraint sign_in_failures_pkey primary key (account_hash, source),
  constraint sign_in_failures__account_hash_length check (length(account_hash) = 32),
  constraint sign_in_failures__failures check (failures > 0)
);
comment on table sign_in_failures is 'Consecutive failed sign-ins, of existing accounts and of unknown addresses alike.';
comment on column sign_in_failures.account_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';
comment on column sign_in_failures.source is 'Which attempts are counted together: those of one known device, of one known network, of one session, or all others.';
comment on column sign_in_failures.paused_until is 'Until then no attempt of this source is verified. Null before the first pause.';
create index sign_in_failures__last_failed_at on sign_in_failures (last_failed_at);

create table notices (
  id uuid not null,
  user_id uuid not null references users (id) on delete cascade,
  kind text not null,
  day date not null,
  created_at timestamptz not null,
  details jsonb not null,
  sent_at timestamptz,
  constraint notices_pkey primary key (id),
  constraint notices__once_a_day unique (user_id, kind, day),
  constraint notices__kind check (kind ~ '^[a-z]+(_[a-z]+)*$')
);
comment on table notices is 'Messages to the owner of an account, at most one of each kind a day.';
comment on column notices.details is 'Where and when, never a secret.';
comment on column notices.sent_at is 'Null until it was sent.';
create index notices__unsent on notices (created_at) where sent_at is null;
create index notices__created_at on notices (created_at);
