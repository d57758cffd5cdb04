-- What was made: objects, which are bytes kept by their SHA-256, and media, which are somebody's.

-- Whoever is about to keep an object claims it first. One that no media row refers to, and whose claim is old, is nobody's,
-- and may go.
create table media_objects (
  sha256 text primary key,
  content_type text not null,
  bytes integer not null,
  width integer not null,
  height integer not null,
  claimed_at timestamptz not null default clock_timestamp(),
  constraint media_objects__sha256 check (sha256 ~ '^[0-9a-f]{64}$'),
  constraint media_objects__bytes check (bytes > 0),
  constraint media_objects__size check (width > 0 and height > 0)
);

create index media_objects__claimed_at on media_objects (claimed_at);

create table media (
  id uuid primary key,
  generation_id uuid not null references generations (id) on delete cascade,
  owner_id uuid not null references users (id),
  -- Which of the outputs it is, from 0.
  position integer not null,
  sha256 text not null references media_objects (sha256),
  created_at timestamptz not null default now(),
  constraint media__position unique (generation_id, position)
);

create index media__owner_id on media (owner_id, id);
create index media__sha256 on media (sha256);
