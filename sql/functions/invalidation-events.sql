-- Invalidation: a transaction that changes a cached fact publishes the keys of all facts it changed, once, when it commits.
--
-- Triggers record the keys in settings of the transaction (note_touched). The first key inserts a row into access_events.
-- The keys are written into the row before the commit: by the program (record_access_event) or by the row's deferred
-- trigger (publish_at_commit). The trigger also sends the event of a write that the program did not make, with its commit.
--
-- The program sends its events after their commit: one transaction sends all committed events that are unsent
-- (send_access_events). The reason is a lock of the whole server, which a commit with a notification holds until its WAL is on
-- disk. Commits of changes do not notify, so they can share writes to the disk. If a writer dies before it sends, no event is
-- lost: a heartbeat sends the unsent events first. So an instance whose heartbeat came back has received every event that was
-- committed before that heartbeat was sent.
--
-- A receiver never learns of a change before it is visible. The row stays until Redis has confirmed the invalidation. Until
-- then no instance trusts Redis for these keys.
--
-- Events have positions: each is one higher than the position of the event sent before it. A receiver that finds one
-- missing knows that it lost an event. A row without a position is unsent.

-- Records invalidation keys, separated by line feeds, for this transaction. The settings end with the transaction. Where
-- they are lost before (RESET ALL), the row says * from its insertion on, and everything is invalidated.
-- Makes the publishing trigger deferred again, even in a transaction that set all constraints to immediate.
-- Locks nothing. Costs one insert per transaction; a full setting is followed by the next one, because appending copies it.
-- An id that is taken is skipped: a restore of data inserts rows of events before it sets the sequence of their ids.
create or replace function note_touched(names text) returns void language plpgsql set search_path from current as $$
declare
  place integer;
  before text;
  event bigint;
begin
  if names is null or names = '' then return; end if;
  if coalesce(current_setting('velro.event', true), '') = '' then
    set constraints publish_at_commit deferred;
    loop
      insert into access_events (keys) values ('{*}') on conflict do nothing returning id into event;
      exit when found;
    end loop;
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

-- Writes the recorded keys into the row of the event, and returns its id and keys. The notification is sent with the commit,
-- by the row's trigger. Returns no row if nothing was recorded, unless `always`: an instance that has applied such an empty
-- event has applied every event committed before it.
-- `writer` is the instance that waits for acknowledgements, or an empty string.
-- Too many keys are widened: above max_keys_per_event, the grants of one user become one key `grants:<user>`; if that is
-- still too many, the event is `*`, which invalidates everything.
-- The row's created_at becomes the time of publication. Its ordinal is higher than that of every event whose changes the
-- transaction has seen or waited for.
-- Locks nothing. Costs one insert or update.
create or replace function publish_access_event(writer text, always boolean) returns table (id bigint, keys text[])
  language plpgsql set search_path from current as $$
declare
  event bigint := nullif(current_setting('velro.event', true), '');
begin
  if event is null then
    if not always then return; end if;
    loop
      insert into access_events as e (keys, writer, ordinal)
        values ('{}', nullif(publish_access_event.writer, ''), nextval('access_event_ordinals'))
        on conflict do nothing
        returning e.id, e.keys into publish_access_event.id, publish_access_event.keys;
      exit when found;
    end loop;
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
     set keys = publish_access_event.keys, writer = nullif(publish_access_event.writer, ''), created_at = clock_timestamp(),
         ordinal = nextval('access_event_ordinals')
   where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  return next;
end $$;
comment on function publish_access_event(text, boolean) is
  'Writes the recorded invalidation keys into the row of the event, which is sent when the transaction commits.';

-- As publish_access_event, for a writer that calls send_access_events after its commit. Then the commit sends no notification,
-- and does not wait for the lock of notifications.
create or replace function record_access_event(writer text, always boolean) returns table (id bigint, keys text[])
  language plpgsql set search_path from current as $$
begin
  select event.id, event.keys into record_access_event.id, record_access_event.keys
    from publish_access_event(record_access_event.writer, record_access_event.always) event;
  if not found then return; end if;
  perform set_config('velro.unsent_event', record_access_event.id::text, true);
  return next;
end $$;
comment on function record_access_event(text, boolean) is
  'Writes the recorded invalidation keys into the row of the event, which send_access_events sends once the transaction has committed.';

-- The payload of an event: `event <id> <writer> * <version of the wire> <position> <keys>`. Instances of version 1 read the keys
-- from the row, because of the *. A list too long for a notification is sent as *, and every receiver reads the row. So is
-- the list of a row that its transaction deleted.
create or replace function event_payload(id bigint, writer text, event_position bigint, keys text[]) returns text
  language sql stable set search_path from current as $$
  select rtrim(format('event %s %s * 2 %s %s', id, coalesce(writer, '-'), event_position,
    case when length(list) > max_notified_keys_length() then '*' else list end))
    from coalesce(array_to_string(keys, ' '), '*') list
$$;
comment on function event_payload(bigint, text, bigint, text[]) is
  'The notification of an invalidation event.';

-- The next position. The row is locked until the commit, so that positions have the order of the notifications and no gaps.
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

-- Sends every event that is committed and unsent, or of this transaction, in the order of their ordinals: where a change
-- found its rows changed by another, an instance that has acknowledged its event has applied the event of the other too.
-- Sends the events of all writers. A transaction that had to wait for the lock then finds them sent already.
-- Needs read committed: what is unsent is read again once the lock is held.
-- Locks the position, then takes the lock that Postgres holds for notifications; without an unsent event, nothing. Let it commit
-- with synchronous_commit off, so that no lock is held while the WAL is written: where a crash loses the positions, the
-- events are unsent again.
create or replace function send_access_events() returns void
  language plpgsql set search_path from current set enable_seqscan to off as $$
declare
  newest bigint;
begin
  if not exists (select from access_events e where e.position is null) then return; end if;
  select p.position into newest from event_positions p for no key update;
  if not found then newest := next_event_position() - 1; end if;
  with unsent as materialized (
    select e.id, newest + row_number() over (order by e.ordinal nulls first, e.id) as next_position from access_events e where e.position is null
  ), numbered as (
    update access_events e set position = unsent.next_position from unsent where e.id = unsent.id
    returning e.id, e.writer, e.position, e.keys
  ), ordered as materialized (
    select n.position, event_payload(n.id, n.writer, n.position, n.keys) as payload from numbered n order by n.position
  ), notified as materialized (
    select o.position, pg_notify('velro', o.payload) from ordered o
  )
  select max(n.position) into newest from notified n;
  update event_positions p set position = newest where newest is not null;
end $$;
comment on function send_access_events() is
  'Sends every invalidation event that is committed and unsent.';

-- Sends with the commit the event of a write that was not made by the program, or not recorded for send_access_events: keys
-- that the transaction has not published itself are written into the row first. A row that the transaction deleted again is
-- sent as *. So no write can skip the invalidation. Committed events that are unsent go ahead of it.
-- Locks the position, then takes the lock that Postgres holds for notifications.
create or replace function publish_at_commit() returns trigger language plpgsql set search_path from current as $$
begin
  -- Also where it is another event of the transaction, which is sent with this one.
  if coalesce(current_setting('velro.event', true), '') <> '' then perform publish_access_event('', false); end if;
  if not exists (select from access_events e where e.id = new.id) then
    perform pg_notify('velro', event_payload(new.id, null, next_event_position(), null));
  elsif current_setting('velro.unsent_event', true) is distinct from new.id::text then
    perform send_access_events();
  end if;
  return null;
end $$;
comment on function publish_at_commit() is
  'Sends the event of the transaction when it commits, so that no write can skip the invalidation.';

-- A heartbeat of an instance: `beat <instance> <heartbeat> <version of the wire> <identity of the database> <position>`. It
-- follows every event that was committed before it was sent, because it sends the unsent ones first.
-- With synchronous standbys the heartbeat also writes to the WAL, so that its commit waits for them as changes do: a primary
-- cut off from them must not renew leases. The wait for the server's lock for notifications is limited, because a commit that
-- waits for a standby holds it.
create or replace function send_heartbeat(instance text, heartbeat text) returns void
  language plpgsql set search_path from current as $$
begin
  perform set_config('lock_timeout', '2s', true);
  if current_setting('synchronous_standby_names') <> '' then perform pg_logical_emit_message(true, 'velro', '');
  else perform set_config('synchronous_commit', 'off', true);
  end if;
  perform send_access_events();
  perform pg_notify('velro', format('beat %s %s 2 %s %s', instance, heartbeat, database_identity(),
    coalesce((select position from event_positions), 0)));
end $$;
comment on function send_heartbeat(text, text) is
  'Notifies all instances of a heartbeat, with the identity of the database and the position of the newest committed event.';
