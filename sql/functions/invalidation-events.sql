-- Invalidation: a transaction that changes a cached fact publishes the keys of all facts it changed, once, when it commits.
--
-- Triggers record the keys in settings of the transaction (note_touched). The first key inserts a row into access_events.
-- The keys are written into the row before the commit: by the program (publish_access_event) or by the row's deferred
-- trigger (publish_at_commit), which then sends what the row says. Postgres delivers notifications at the commit and in
-- commit order, so a receiver never learns of a change before it is visible. The row stays until Redis has confirmed the
-- invalidation. Until then no instance trusts Redis for these keys.
--
-- Events have positions: each is one higher than the position of the event committed before it. A receiver that finds one
-- missing knows that it lost an event.

-- Records invalidation keys, separated by line feeds, for this transaction. The settings end with the transaction. Where
-- they are lost before (RESET ALL), the row says * from its insertion on, and everything is invalidated.
-- Makes the publishing trigger deferred again, even in a transaction that set all constraints to immediate.
-- Locks nothing. Costs one insert per transaction; a full setting is followed by the next one, because appending copies it.
create or replace function note_touched(names text) returns void language plpgsql set search_path from current as $$
declare
  place integer;
  before text;
  event bigint;
begin
  if names is null or names = '' then return; end if;
  if coalesce(current_setting('velro.event', true), '') = '' then
    set constraints publish_at_commit deferred;
    insert into access_events (keys) values ('{*}') returning id into event;
    perform set_config('velro.event', event::text, true);
  end if;
  place := coalesce(nullif(current_setting('velro.touched_place', true), ''), '0');
  before := coalesce(current_setting('velro.touched_' || place, true), '');
  if length(before) > max_setting_length() then
    place := place + 1;
    before := '';
    perform set_config('velro.touched_place', place::text, true);
  end if;
  perform set_config('velro.touched_' || place, before || names, true);
end $$;
comment on function note_touched(text) is
  'Records invalidation keys for this transaction, to be published when it commits.';

create or replace function touched_facts() returns setof text language sql
begin atomic
  select name
    from generate_series(0, coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer) place,
         string_to_table(current_setting('velro.touched_' || place, true), e'\n') name
   where name <> '';
end;
comment on function touched_facts() is
  'The invalidation keys that this transaction has recorded and not published yet, with duplicates.';

-- Writes the recorded keys into the row of the event, and returns its id and keys. The notification is sent at the commit, by
-- the row's trigger. Returns no row if nothing was recorded, unless `always`: an instance that has applied such an empty
-- event has applied every event committed before it.
-- `writer` is the instance that waits for acknowledgements, or an empty string.
-- Too many keys are widened: above max_keys_per_event, the grants of one user become one key `grants:<user>`; if that is
-- still too many, the event is `*`, which invalidates everything.
-- The row's created_at becomes the time of publication.
-- Locks nothing. Costs one insert or update.
create or replace function publish_access_event(writer text, always boolean) returns table (id bigint, keys text[])
  language plpgsql set search_path from current as $$
declare
  event bigint := nullif(current_setting('velro.event', true), '');
begin
  if event is null then
    if not always then return; end if;
    insert into access_events as e (keys, writer) values ('{}', nullif(publish_access_event.writer, ''))
      returning e.id, e.keys into publish_access_event.id, publish_access_event.keys;
    return next;
    return;
  end if;
  publish_access_event.id := event;
  publish_access_event.keys := array(select distinct touched_facts());
  if cardinality(publish_access_event.keys) > max_keys_per_event() then
    publish_access_event.keys := array(
      select distinct case when name like 'grant:%' then 'grants:' || split_part(substr(name, 7), '/', 1) else name end
        from unnest(publish_access_event.keys) name);
  end if;
  if '*' = any (publish_access_event.keys) or cardinality(publish_access_event.keys) > max_keys_per_event() then
    publish_access_event.keys := '{*}';
  end if;
  update access_events e
     set keys = publish_access_event.keys, writer = nullif(publish_access_event.writer, ''), created_at = clock_timestamp()
   where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  return next;
end $$;
comment on function publish_access_event(text, boolean) is
  'Writes the recorded invalidation keys into the row of the event, which is sent when the transaction commits.';

-- The next position. The row is locked until the commit, so that positions have the order of the commits and no gaps.
-- It is called at the commit only: no round trip of a client passes while the row is locked. A missing row is inserted anew,
-- and receivers take the lower position for another database.
create or replace function next_event_position() returns bigint language sql
begin atomic
  insert into event_positions as p (only_row, position) values (true, 1)
      on conflict (only_row) do update set position = p.position + 1
  returning p.position;
end;
comment on function next_event_position() is
  'Increments the position of invalidation events. Locks its row until the commit; call it at the commit only.';

-- Sends at the commit what the row says: keys that the transaction has not published itself are written into the row first.
-- A row that the transaction deleted again is sent as *. So no write can skip the invalidation.
-- The payload: `event <id> <writer> * <version of the wire> <position> <keys>`. Instances of version 1 read the keys from the
-- row, because of the *. A list too long for a notification is sent as *, and every receiver reads the row.
-- Locks the position, then takes the lock that Postgres holds for notifications.
create or replace function publish_at_commit() returns trigger language plpgsql set search_path from current as $$
declare
  event access_events;
  list text;
begin
  if current_setting('velro.event', true) = new.id::text then perform publish_access_event('', false); end if;
  select * into event from access_events e where e.id = new.id;
  list := coalesce(array_to_string(event.keys, ' '), '*');
  if length(list) > max_notified_keys_length() then list := '*'; end if;
  perform pg_notify('velro',
    rtrim(format('event %s %s * 2 %s %s', new.id, coalesce(event.writer, '-'), next_event_position(), list)));
  return null;
end $$;
comment on function publish_at_commit() is
  'Sends the event of the transaction when it commits, so that no write can skip the invalidation.';

-- A heartbeat of an instance: `beat <instance> <heartbeat> <version of the wire> <identity of the database> <position>`. It
-- follows every event up to its position, because those are committed before the position is read.
-- With synchronous standbys the heartbeat also writes to the WAL, so that its commit waits for them as changes do: a primary
-- cut off from them must not renew leases. The wait for the server's lock for notifications is limited, because a commit that
-- waits for a standby holds it.
create or replace function send_heartbeat(instance text, heartbeat text) returns void
  language plpgsql set search_path from current as $$
begin
  perform set_config('lock_timeout', '2s', true);
  if current_setting('synchronous_standby_names') <> '' then perform pg_logical_emit_message(true, 'velro', ''); end if;
  perform pg_notify('velro', format('beat %s %s 2 %s %s', instance, heartbeat, database_identity(),
    coalesce((select position from event_positions), 0)));
end $$;
comment on function send_heartbeat(text, text) is
  'Notifies all instances of a heartbeat, with the identity of the database and the position of the newest committed event.';
