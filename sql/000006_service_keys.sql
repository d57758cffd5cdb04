-- Keys of services. A key is vsk_ and base64url of its id and 32 random bytes; only the hash of those is kept.
create table service_keys (
  id uuid primary key,
  name text not null,
  secret_hash bytea not null,
  scopes text[] not null,
  created_by uuid not null references users (id),
  created_at timestamptz not null,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  constraint service_keys__name_length check (length(name) between 1 and 200),
  constraint service_keys__has_scopes check (cardinality(scopes) > 0),
  constraint service_keys__secret_hash_length check (length(secret_hash) = 32)
);
