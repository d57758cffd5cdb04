-- Outbound work (mails, webhooks) waits in a table, and links that are sent by mail have tokens that can be used once. Only adds
-- tables: the version before runs on it and sends nothing.

create table outbound_tasks (
  id uuid not null,
  kind text not null,
  payload jsonb not null,
  dedupe_key text,
  ordering_key text,
  user_id uuid,
  position bigint generated always as identity,
  created_at timestamptz not null,
  run_at timestamptz not null,
  attempt integer not null default 0,
  failures integer not null default 0,
  constraint outbound_tasks_pkey primary key (id),
  constraint outbound_tasks__dedupe_key unique (kind, dedupe_key),
  constraint outbound_tasks__kind check (kind ~ '^[a-z]+(_[a-z]+)*$')
);
comment on table outbound_tasks is 'Work that reaches outside: inserted in the transaction of the change that causes it, deleted when it is done.';
comment on column outbound_tasks.payload is 'For the handler of the kind. Secrets and addresses in it are sealed.';
comment on column outbound_tasks.dedupe_key is 'Of the unfinished tasks of a kind at most one has it. Null: any number.';
comment on column outbound_tasks.ordering_key is 'Tasks of a kind with the same key run one after the other, by position. Null: in no order.';
comment on column outbound_tasks.user_id is 'Whose personal data it may hold: closing the account deletes it. No foreign key, because its lock would break the lock order.';
comment on column outbound_tasks.run_at is 'When it is due. A worker that leases it sets this to the end of its lease.';
comment on column outbound_tasks.attempt is 'Fencing token: a worker may finish only the attempt that it leased.';
comment on column outbound_tasks.failures is 'Attempts that failed. One whose lease expired does not count.';
create index outbound_tasks__due on outbound_tasks (kind, run_at, position);
create index outbound_tasks__ordering_key on outbound_tasks (kind, ordering_key, position) where ordering_key is not null;
create index outbound_tasks__user_id on outbound_tasks (user_id) where user_id is not null;

create table one_time_tokens (
  token_hash bytea not null,
  purpose text not null,
  user_id uuid,
  data jsonb not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  used_at timestamptz,
  constraint one_time_tokens_pkey primary key (token_hash),
  constraint one_time_tokens_user_id_fkey foreign key (user_id) references users (id) on delete cascade,
  constraint one_time_tokens__token_hash_length check (length(token_hash) = 32),
  constraint one_time_tokens__purpose check (purpose ~ '^[a-z]+(_[a-z]+)*$')
);
comment on table one_time_tokens is 'Tokens that are sent to a person and can be used once, each for one purpose.';
comment on column one_time_tokens.token_hash is 'SHA-256 of the purpose and the token.';
comment on column one_time_tokens.user_id is 'The account it is about. Null: none yet.';
comment on column one_time_tokens.data is 'What its use changes, such as a new e-mail address.';
comment on column one_time_tokens.used_at is 'When it was used or revoked. Null: it was not.';
create index one_time_tokens__user_id on one_time_tokens (user_id, purpose) where user_id is not null;
create index one_time_tokens__expires_at on one_time_tokens (expires_at);

create table mail_counts (
  recipient_hash bytea not null,
  template text not null,
  hour timestamptz not null,
  mails integer not null,
  constraint mail_counts_pkey primary key (recipient_hash, template, hour),
  constraint mail_counts__recipient_hash_length check (length(recipient_hash) = 32)
);
comment on table mail_counts is 'How many mails of a kind an address got in an hour, so that no address is flooded. Kept for two hours.';
comment on column mail_counts.recipient_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';
create index mail_counts__hour on mail_counts (hour);

create table former_addresses (
  email text not null,
  user_id uuid not null,
  expires_at timestamptz not null,
  constraint former_addresses_pkey primary key (email),
  constraint former_addresses_user_id_fkey foreign key (user_id) references users (id) on delete cascade
);
comment on table former_addresses is 'E-mail addresses that an account had until lately. Until expires_at their owners can undo the change, so no other account can get them.';
create index former_addresses__user_id on former_addresses (user_id);
create index former_addresses__expires_at on former_addresses (expires_at);

comment on column notices.sent_at is 'When its mail was enqueued. Null: it was not.';
