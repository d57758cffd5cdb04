-- Links by which whoever has one may fetch the bytes of a thing, without an account, for as long as the row is there and
-- its maker may still share the thing. Their use reads the row by its primary key, so a removal is felt at once.
create table share_links (
  id uuid primary key,
  media_id uuid not null references media (id) on delete cascade,
  -- SHA-256 of 32 random bytes, which are in the link and nowhere else.
  secret_hash bytea not null,
  label text,
  created_by uuid not null references users (id),
  created_at timestamptz not null,
  -- Null: until it is removed.
  expires_at timestamptz,
  constraint share_links__secret_hash_length check (length(secret_hash) = 32),
  constraint share_links__label_length check (length(label) between 1 and 200),
  constraint share_links__expires_at check (expires_at > created_at)
);

create index share_links__media_id on share_links (media_id, id);
create index share_links__expires_at on share_links (expires_at) where expires_at is not null;
