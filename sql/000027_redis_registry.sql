-- Which Redis server the instances share, so that an event is confirmed only by the server from which the others read.
-- functions: ca5c1d2902ffb74cef0781f4f0927301b52a9d83989c9288c1df37956be3e41f

create table redis_registry (
  only_row boolean not null default true,
  epoch text not null,
  server text not null,
  database text not null,
  chosen_at timestamptz not null default clock_timestamp(),
  constraint redis_registry_pkey primary key (only_row),
  constraint redis_registry__only_row check (only_row)
);
comment on table redis_registry is 'One row: the Redis server that the instances of this database share.';
comment on column redis_registry.epoch is 'Random, new with each choice. Part of every key in Redis, so entries from before a choice are never found.';
comment on column redis_registry.server is 'Run id of the server. A hyphen: the instances use no Redis.';
comment on column redis_registry.database is 'Identity of the database for which it was chosen: a restored copy chooses anew.';

create table redis_registrations (
  instance text not null,
  server text,
  seen_at timestamptz not null,
  constraint redis_registrations_pkey primary key (instance)
);
comment on table redis_registrations is 'Which Redis server each running instance is connected to. A row that is not renewed expires.';
comment on column redis_registrations.server is 'Run id of the server. A hyphen: no Redis is configured; null: it cannot be reached.';

-- Their bodies are in sql/functions.
create function renew_redis_epoch() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger renew_redis_epoch after delete on access_events
  referencing old table as before for each statement execute function renew_redis_epoch();
create trigger renew_redis_epoch_on_truncate after truncate on access_events
  for each statement execute function renew_redis_epoch();
