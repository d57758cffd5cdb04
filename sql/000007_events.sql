-- Who caches what decisions depend on hears of every change to it, because the tables themselves tell: no write can
-- forget to, not even one by hand.
--
-- A statement that changes what a fact is made of notes the fact's name in its transaction. The first note leaves a row
-- here; when the transaction ends, the row gets all names and one notification goes out on the channel `velro`, heard
-- exactly when the change is visible and in the order of commits. The row stays until the outer cache has confirmed that
-- it forgot: as long as it stands, nobody believes that cache about those names.

create table access_events (
  id bigint generated always as identity primary key,
  keys text[] not null,
  created_at timestamptz not null default clock_timestamp()
);

-- What is in one setting is copied each time something is added, so there is a next one where one is full. The settings
-- end with the transaction.
create function note_touched(names text) returns void language plpgsql as $$
declare
  place integer;
  before text;
  event bigint;
begin
  if names is null or names = '' then return; end if;
  if coalesce(current_setting('velro.event', true), '') = '' then
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

create or replace function touched_grants() returns setof text language sql as $$
  select name
    from generate_series(0, coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer) place,
         string_to_table(current_setting('velro.touched_' || place, true), e'\n') name
   where name <> ''
$$;
alter function touched_grants() rename to touched_facts;

-- Tells what this transaction changed, once: gives the event's id and names, or no row where nothing was. `writer` waits
-- to hear who took note. A notification takes 8,000 bytes; of more names the readers learn from the row. `*` is everything:
-- a change that large is a load by hand. `always`: also where nothing was changed, because who has applied that has applied
-- all that came before.
create function publish_access_event(writer text, always boolean) returns table (id bigint, keys text[]) language plpgsql as $$
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
  if '*' = any (publish_access_event.keys) or cardinality(publish_access_event.keys) > 20000 then
    publish_access_event.keys := '{*}';
  end if;
  update access_events e set keys = publish_access_event.keys where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  head := format('event %s %s ', event, coalesce(nullif(writer, ''), '-'));
  list := array_to_string(publish_access_event.keys, ' ');
  perform pg_notify('velro', rtrim(head || case when length(list) > 7800 then '*' else list end));
  return next;
end $$;

-- For transactions that did not publish themselves.
create function publish_at_commit() returns trigger language plpgsql as $$
begin
  if current_setting('velro.event', true) = new.id::text then perform publish_access_event('', false); end if;
  return null;
end $$;

create constraint trigger publish_at_commit after insert on access_events
  deferrable initially deferred for each row execute function publish_at_commit();

-- What is one's own is told from what was granted by the row itself. All that was granted to a person is kept as one fact,
-- which says of every project what is so, also of one that is new: so what is granted on a new project has to be told of
-- like any other grant, and what its maker may do must not be part of that fact, or it would have to be told of too. When
-- a project changes hands its former owner's row changes even where a team gives as much as owning did.
alter table project_access disable trigger user;
alter table project_access add column owned boolean not null default false;
update project_access a set owned = true from projects p where p.id = a.project_id and p.owner_id = a.user_id;
alter table project_access enable trigger user;

-- Who has a hundred thousand projects of its own may be let into three.
create index project_access__granted on project_access (user_id, project_id) include (actions) where not owned;

create or replace view project_access_expected as
  select user_id, project_id, bit_or(actions) as actions, bool_or(owned) as owned
    from (
      select p.owner_id as user_id, p.id as project_id, r.actions, true as owned
        from projects p join access_rules r on r.kind = 'owner' and r.name = 'project'
      union all
      select m.user_id, g.project_id, role.actions & level.actions, false
        from project_grants g
        join projects p on p.id = g.project_id and p.visibility <> 'private'
        join team_members m on m.team_id = g.team_id
        join access_rules role on role.kind = 'role' and role.name = m.role
        join access_rules level on level.kind = 'access_level' and level.name = g.access_level
    ) sources
   where actions > 0
   group by user_id, project_id;

create or replace view project_access_difference as
  select user_id, project_id, actual.actions as actual, expected.actions as expected
    from project_access actual full join project_access_expected expected using (user_id, project_id)
   where (actual.actions, actual.owned) is distinct from (expected.actions, expected.owned);

create or replace function refresh_project_access(refreshed uuid[]) returns void language plpgsql
  set plan_cache_mode = force_generic_plan as $$
begin
  with expected as (
    select user_id, project_id, actions, owned from project_access_expected where project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.project_id = any (refreshed)
       and not exists (select from expected e where e.user_id = a.user_id and e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions, owned)
  select user_id, project_id, actions, owned from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions, owned = excluded.owned
   where (a.actions, a.owned) <> (excluded.actions, excluded.owned);
end $$;

create or replace function refresh_project_access_of(person uuid, refreshed uuid[]) returns void language plpgsql
  set plan_cache_mode = force_generic_plan as $$
begin
  with expected as (
    select project_id, actions, owned from project_access_expected
     where user_id = person and project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.user_id = person and a.project_id = any (refreshed)
       and not exists (select from expected e where e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions, owned)
  select person, project_id, actions, owned from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions, owned = excluded.owned
   where (a.actions, a.owned) <> (excluded.actions, excluded.owned);
end $$;

-- The names of grants: who, and on which project. What a project's maker may do is new to everybody.
create or replace function note_touched_grants() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('grant:', user_id, '/', project_id, e'\n'), '') from changed
     where not owned or project_id::text is distinct from nullif(current_setting('velro.new_project', true), '')));
  return null;
end $$;

create or replace function project_access_on_project() returns trigger language plpgsql as $$
begin
  perform require_read_committed();
  if tg_op = 'UPDATE' then
    perform lock_teams_of_project(new.id);
  else
    perform set_config('velro.new_project', new.id::text, true);
  end if;
  perform refresh_project_access(array[new.id]);
  return null;
end $$;

-- What is new has a name nobody could know, so only changes and removals are noted, and of changes those that show in a
-- fact. Full joins, because what gets another id is gone by the one it had.
create function note_removed() returns trigger language plpgsql as $$
begin
  perform note_touched((select string_agg(concat(tg_argv[0], ':', id, e'\n'), '') from before));
  return null;
end $$;

-- A session that is over is as good as none.
create function note_removed_sessions() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before
     where ended_at is null and least(idle_expires_at, expires_at) > now()));
  return null;
end $$;

create function note_changed_sessions() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before b full join after a using (id)
     where (a.user_id, a.ended_at is null, least(a.idle_expires_at, a.expires_at))
           is distinct from (b.user_id, b.ended_at is null, least(b.idle_expires_at, b.expires_at))));
  return null;
end $$;

create function note_changed_users() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('account:', id, e'\n'), '') from before b full join after a using (id)
     where (a.status, a.role, a.plan)
           is distinct from (b.status, b.role, b.plan)));
  return null;
end $$;

create function note_changed_projects() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('project:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.visibility, a.allow_derivatives)
           is distinct from (b.owner_id, b.visibility, b.allow_derivatives)));
  return null;
end $$;

create function note_changed_generations() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('generation:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.project_id, a.status)
           is distinct from (b.owner_id, b.project_id, b.status)));
  return null;
end $$;

create function note_changed_service_keys() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('service_key:', id, e'\n'), '') from before b full join after a using (id)
     where (a.secret_hash, a.scopes, a.revoked_at is null, a.expires_at)
           is distinct from (b.secret_hash, b.scopes, b.revoked_at is null, b.expires_at)));
  return null;
end $$;

create trigger touched_by_update after update on sessions
  referencing old table as before new table as after for each statement execute function note_changed_sessions();
create trigger touched_by_delete after delete on sessions
  referencing old table as before for each statement execute function note_removed_sessions();
create trigger touched_by_update after update on users
  referencing old table as before new table as after for each statement execute function note_changed_users();
create trigger touched_by_delete after delete on users
  referencing old table as before for each statement execute function note_removed('account');
create trigger touched_by_update after update on projects
  referencing old table as before new table as after for each statement execute function note_changed_projects();
create trigger touched_by_delete after delete on projects
  referencing old table as before for each statement execute function note_removed('project');
create trigger touched_by_update after update on generations
  referencing old table as before new table as after for each statement execute function note_changed_generations();
create trigger touched_by_delete after delete on generations
  referencing old table as before for each statement execute function note_removed('generation');
create trigger touched_by_update after update on service_keys
  referencing old table as before new table as after for each statement execute function note_changed_service_keys();
create trigger touched_by_delete after delete on service_keys
  referencing old table as before for each statement execute function note_removed('service_key');

-- Switches an operator can turn while everything runs. What is not here is on.
create table flags (
  name text primary key,
  enabled boolean not null,
  updated_at timestamptz not null default now(),
  updated_by uuid references users (id),
  constraint flags__name check (name in ('l1', 'l2', 'l3', 'warm_up'))
);

create function note_changed_flags() returns trigger language plpgsql as $$
begin
  perform note_touched((select string_agg(concat('flag:', name, '=', enabled, e'\n'), '') from after));
  return null;
end $$;

create trigger touched_by_insert after insert on flags
  referencing new table as after for each statement execute function note_changed_flags();
create trigger touched_by_update after update on flags
  referencing new table as after for each statement execute function note_changed_flags();

-- What is emptied at one stroke is emptied of everything anybody knew.
create function note_everything() returns trigger language plpgsql as $$
begin
  perform note_touched(e'*\n');
  return null;
end $$;

create trigger touched_by_truncate after truncate on sessions for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on users for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on projects for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on generations for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on service_keys for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on project_access for each statement execute function note_everything();
create trigger touched_by_truncate after truncate on flags for each statement execute function note_everything();
create trigger touched_by_delete after delete on flags for each statement execute function note_everything();
