-- Which Redis server the instances of this database share.
--
-- An event is removed once its keys are deleted from Redis. An instance that reads another Redis server, or the entries that
-- another database left there, would never learn of an event that was removed while it was disconnected. So one server is
-- chosen for all instances, under a random epoch that is part of every key, and only that epoch confirms events. Where rows
-- are removed otherwise, or the database is another one, a new epoch begins, and no entry of an earlier one is ever found.

-- Identifies the data as well as the database: a table that was restored, truncated or rewritten has another file.
-- Locks nothing.
create or replace function redis_database() returns text language sql stable set search_path from current as $$
  select database_identity() || '-' || md5(string_agg(coalesce(pg_relation_filenode(name::regclass), 0)::text, ' ' order by name))
    from unnest('{access_events,generations,media,project_access,projects,service_keys,sessions,users}'::text[]) name
$$;
comment on function redis_database() is
  'Identifies the database and the files of its cached tables, for the keys of entries in Redis.';

-- Registers the Redis server of an instance, and returns the chosen one. `own_server` is its run id, a hyphen where no Redis is
-- configured, and null where it cannot be reached. `outdated_epoch` is replaced if it is still the current one.
-- A choice is replaced when it was made for another database, when no running instance uses its server, and by any server
-- when it was made by an instance without Redis. A registration counts for 10 seconds.
-- `events` is the newest id of an event: lower than one noted earlier, it shows that the database was set back.
-- Skips locked rows instead of waiting; then it returns the choice as it is.
create or replace function register_redis(own_instance text, own_server text, outdated_epoch text)
  returns table (epoch text, server text, database text, events bigint, chosen_s float8) language plpgsql set search_path from current as $$
declare
  identity text := redis_database();
  choice redis_registry;
begin
  insert into redis_registrations as r (instance, server, seen_at)
  values (own_instance, own_server, clock_timestamp())
      on conflict (instance) do update set server = excluded.server, seen_at = excluded.seen_at;
  delete from redis_registrations where instance in (
    select r.instance from redis_registrations r where r.seen_at < clock_timestamp() - interval '10 seconds' for update skip locked);
  select * into choice from redis_registry;
  if own_server is not null and may_choose_redis(choice, own_server, identity, outdated_epoch) then
    if choice.epoch is null then
      insert into redis_registry (epoch, server, database) values (gen_random_uuid()::text, own_server, identity)
          on conflict do nothing;
    else
      perform from redis_registry for update skip locked;
      if found then
        select * into choice from redis_registry;
        if may_choose_redis(choice, own_server, identity, outdated_epoch) then
          update redis_registry as r
             set epoch = gen_random_uuid()::text, server = own_server, database = identity, chosen_at = clock_timestamp();
        end if;
      end if;
    end if;
    select * into choice from redis_registry;
  end if;
  if choice.database = identity then
    return query select choice.epoch, choice.server, identity,
      coalesce(pg_sequence_last_value(pg_get_serial_sequence('access_events', 'id')::regclass), 0),
      extract(epoch from clock_timestamp() - choice.chosen_at)::float8;
  end if;
end $$;
comment on function register_redis(text, text, text) is
  'Registers the Redis server of an instance for 10 seconds, and returns the server that all instances share.';

create or replace function may_choose_redis(choice redis_registry, own_server text, identity text, outdated_epoch text)
  returns boolean language sql set search_path from current as $$
  select choice.epoch is null or choice.database <> identity or coalesce(choice.epoch = outdated_epoch, false)
      or choice.server <> own_server
         and (choice.server = '-' or not exists (select from redis_registrations r where r.server = choice.server))
$$;
comment on function may_choose_redis(redis_registry, text, text, text) is
  'Whether an instance may replace the choice of the shared Redis server by its own server.';

-- Removes events whose keys are deleted from the chosen Redis server, and notifies every instance of those removed. Removes
-- nothing when another choice was made meanwhile, and no event that is unsent: its row is all that other instances learn of it.
-- A hyphen as epoch: the events are so old that no entry can predate them.
-- Does not wait for the disk: rows that a crash brings back are removed again.
-- Locks the choice for share, skipping instead of waiting, and the rows of the events.
create or replace function confirm_access_events(ids bigint[], own_epoch text) returns void language plpgsql set search_path from current as $$
declare
  removed text;
begin
  if own_epoch <> '-' then
    perform from redis_registry r where r.epoch = own_epoch and r.database = redis_database() for share skip locked;
    if not found then return; end if;
  end if;
  perform set_config('velro.confirming', 'on', true), set_config('synchronous_commit', 'off', true);
  with gone as (delete from access_events e where e.id = any (ids) and e.position is not null returning e.id)
  select string_agg(id::text, ' ') into removed from gone;
  perform set_config('velro.confirming', '', true);
  if removed is not null then perform pg_notify('velro', format('confirmed %s %s', own_epoch, removed)); end if;
end $$;
comment on function confirm_access_events(bigint[], text) is
  'Removes events whose keys are deleted from the shared Redis server, and notifies every instance.';

-- Events that were removed in any other way may leave entries in Redis: a new epoch begins.
create or replace function renew_redis_epoch() returns trigger language plpgsql set search_path from current as $$
begin
  if coalesce(current_setting('velro.confirming', true), '') = 'on' then return null; end if;
  if tg_op = 'DELETE' then
    if not exists (select from before) then return null; end if;
  end if;
  update redis_registry set epoch = gen_random_uuid()::text, chosen_at = clock_timestamp();
  return null;
end $$;
comment on function renew_redis_epoch() is
  'Begins a new epoch of the shared Redis server when events are removed that no instance confirmed.';
