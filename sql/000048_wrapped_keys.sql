-- Keys that stay the same when SECRET changes. The version before runs on it: it derives them from SECRET each time.

create table wrapped_keys (
  name text not null,
  sealed_key bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint wrapped_keys_pkey primary key (name)
);
comment on table wrapped_keys is 'Keys of the hashes by which stored values are found again. They stay the same when SECRET changes.';
comment on column wrapped_keys.sealed_key is 'AES-256-GCM under a key derived from SECRET, with the name as associated data.';
