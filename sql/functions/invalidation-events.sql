-- Invalidation: a transaction that changes a cached fact publishes the keys of all facts it changed, once, when it commits.
--
-- Triggers record the keys in settings of the transaction (note_touched). The first key inserts a row into access_events,
-- and the row's deferred trigger publishes at the commit (publish_access_event), unless the program has published already.
-- Postgres delivers notifications at the commit and in commit order, so a receiver never learns of a change before it is
-- visible. The row stays until Redis has confirmed the invalidation. Until then no instance trusts Redis for these keys.

-- Records invalidation keys, separated by line feeds, for this transaction. The settings end with the transaction.
-- Makes the publishing trigger deferred again, even in a transaction that set all constraints to immediate.
-- Locks nothing. Costs one insert per transaction; a full setting is followed by the next one, because appending copies it.
create or replace function note_touched(names text) returns void language plpgsql as $$
declare
  place integer;
  before text;
  event bigint;
begin
  if names is null or names = '' then return; end if;
  if coalesce(current_setting('velro.event', true), '') = '' then
    set constraints publish_at_commit deferred;
    insert into access_events (keys) values ('{}') returning id into event;
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

create or replace function touched_facts() returns setof text language sql as $$
  select name
    from generate_series(0, coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer) place,
         string_to_table(current_setting('velro.touched_' || place, true), e'\n') name
   where name <> ''
$$;
comment on function touched_facts() is
  'The invalidation keys that this transaction has recorded and not published yet, with duplicates.';

-- Publishes the recorded keys as one event and returns its id and keys. Returns no row if nothing was recorded, unless
-- `always`: an instance that has applied such an empty event has applied every event committed before it.
-- `writer` is the instance that waits for acknowledgements, or an empty string.
-- Too many keys are widened: above max_keys_per_event, the grants of one user become one key `grants:<user>`; if that is
-- still too many, the event is `*`, which invalidates everything. A list too long for a notification is sent as `*`, and
-- receivers read the keys from the row.
-- The row's created_at becomes the time of publication.
-- Takes the lock that Postgres holds for notifications, at the commit only. Costs one update and one notification.
create or replace function publish_access_event(writer text, always boolean) returns table (id bigint, keys text[])
  language plpgsql as $$
declare
  event bigint := nullif(current_setting('velro.event', true), '');
  head text;
  list text;
begin
  if event is null then
    if not always then return; end if;
    insert into access_events (keys) values ('{}') returning access_events.id into event;
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
  update access_events e set keys = publish_access_event.keys, created_at = clock_timestamp() where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  head := format('event %s %s ', event, coalesce(nullif(writer, ''), '-'));
  list := array_to_string(publish_access_event.keys, ' ');
  perform pg_notify('velro', rtrim(head || case when length(list) > max_notified_keys_length() then '*' else list end));
  return next;
end $$;
comment on function publish_access_event(text, boolean) is
  'Publishes the recorded invalidation keys as one event, delivered when the transaction commits.';

create or replace function publish_at_commit() returns trigger language plpgsql as $$
begin
  if current_setting('velro.event', true) = new.id::text then perform publish_access_event('', false); end if;
  return null;
end $$;
comment on function publish_at_commit() is
  'Publishes at the commit what the transaction has not published itself, so no write can skip the invalidation.';
