-- What is emptied at one stroke, or changed at many places at once, reaches everybody who caches it like any other change.

-- The end of the transaction is when it is told of, whatever the transaction did to its constraints.
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
  if length(before) > 8192 then
    place := place + 1;
    before := '';
    perform set_config('velro.touched_place', place::text, true);
  end if;
  perform set_config('velro.touched_' || place, before || names, true);
end $$;

-- Tells what this transaction changed, once: gives the event's id and names, or no row where nothing was. `writer` waits
-- to hear who took note. A notification takes 8,000 bytes; of more names the readers learn from the row. Of more than
-- 20,000 names those of grants are told as one for each person, `grants:` and the person, which is all that was granted to
-- that person; `*`, for more than 20,000 even so, is everything: a change that large is a load by hand. The row is as old as
-- this. `always`: also where nothing was changed, because who has applied that has applied all that came before.
create or replace function publish_access_event(writer text, always boolean) returns table (id bigint, keys text[]) language plpgsql as $$
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
  if cardinality(publish_access_event.keys) > 20000 then
    publish_access_event.keys := array(
      select distinct case when name like 'grant:%' then 'grants:' || split_part(substr(name, 7), '/', 1) else name end
        from unnest(publish_access_event.keys) name);
  end if;
  if '*' = any (publish_access_event.keys) or cardinality(publish_access_event.keys) > 20000 then
    publish_access_event.keys := '{*}';
  end if;
  update access_events e set keys = publish_access_event.keys, created_at = clock_timestamp() where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  head := format('event %s %s ', event, coalesce(nullif(writer, ''), '-'));
  list := array_to_string(publish_access_event.keys, ' ');
  perform pg_notify('velro', rtrim(head || case when length(list) > 7800 then '*' else list end));
  return next;
end $$;

-- TRUNCATE fires no trigger of a row. It holds the table until it commits, and waited for all who had read it, so nobody
-- else works out rows meanwhile; the projects are locked against those who remove one. Reads everything, as the check on a
-- schedule does.
create function project_access_on_truncate() returns trigger language plpgsql as $$
declare
  differing uuid[];
begin
  perform require_read_committed();
  differing := array(select distinct project_id from project_access_difference);
  perform from projects where id = any (differing) order by id for no key update;
  perform refresh_project_access(differing);
  return null;
end $$;

create trigger project_access_by_truncate after truncate on team_members
  for each statement execute function project_access_on_truncate();
create trigger project_access_by_truncate after truncate on project_grants
  for each statement execute function project_access_on_truncate();

create function project_access_on_truncate_of_projects() returns trigger language plpgsql as $$
begin
  delete from project_access;
  return null;
end $$;

create trigger project_access_by_truncate after truncate on projects
  for each statement execute function project_access_on_truncate_of_projects();
