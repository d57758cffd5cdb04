-- Who may do what on which project, as rows: a materialized view that is never stale, because triggers keep it in the
-- transaction of whoever changes what it is made of. What is public is for everyone and not in here.
--
-- A row is made of a project, its grants and their teams' members, and two writers who each change a part of one row
-- must not both go by the part as it was before. So whoever changes
--   a project                    holds its row and the rows of all teams with a grant on it,
--   a grant                      the same, and the row of its team,
--   a member                     the row of the team, then the person (an advisory lock),
-- and recomputes what it may have changed by a statement that starts when it holds them: of two writers of one row the
-- second sees what the first committed. Order of locks: project rows, then team rows by id, then people.

-- The matrix of roles, access levels and actions. Its one source is the program (access/model), which writes it here at
-- the start and has everything recomputed when it changed.
create table access_rules (
  kind text not null,
  name text not null,
  actions integer not null,
  constraint access_rules__pkey primary key (kind, name),
  constraint access_rules__kind check (kind in ('role', 'access_level', 'owner'))
);

-- Without foreign keys: they would lock the project's row after the team's, and the triggers below leave nothing behind.
-- Both indexes hold all there is to know, so that a question need not go to the table.
create table project_access (
  user_id uuid not null,
  project_id uuid not null,
  actions integer not null,
  constraint project_access__pkey primary key (user_id, project_id) include (actions),
  constraint project_access__actions check (actions > 0)
);

create index project_access__project_id on project_access (project_id, user_id) include (actions);

-- What project_access has to be, from the base tables.
create view project_access_expected as
  select user_id, project_id, bit_or(actions) as actions
    from (
      select p.owner_id as user_id, p.id as project_id, r.actions
        from projects p join access_rules r on r.kind = 'owner' and r.name = 'project'
      union all
      select m.user_id, g.project_id, role.actions & level.actions
        from project_grants g
        join projects p on p.id = g.project_id and p.visibility <> 'private'
        join team_members m on m.team_id = g.team_id
        join access_rules role on role.kind = 'role' and role.name = m.role
        join access_rules level on level.kind = 'access_level' and level.name = g.access_level
    ) sources
   where actions > 0
   group by user_id, project_id;

-- The rows that differ, for the check that runs on a schedule and in tests: none, always.
create view project_access_difference as
  select user_id, project_id, actual.actions as actual, expected.actions as expected
    from project_access actual full join project_access_expected expected using (user_id, project_id)
   where actual.actions is distinct from expected.actions;

-- Brings the rows of some projects up to date, of all their people. Costs a row read for each member of a team with a
-- grant. Planned once a connection: planning it takes longer than doing it.
create function refresh_project_access(refreshed uuid[]) returns void language plpgsql
  set plan_cache_mode = force_generic_plan as $$
begin
  with expected as (
    select user_id, project_id, actions from project_access_expected where project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.project_id = any (refreshed)
       and not exists (select from expected e where e.user_id = a.user_id and e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions)
  select user_id, project_id, actions from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions
   where a.actions <> excluded.actions;
end $$;

-- The same for one person, which costs a few rows for each project. A function of its own, so that its plan starts there.
create function refresh_project_access_of(person uuid, refreshed uuid[]) returns void language plpgsql
  set plan_cache_mode = force_generic_plan as $$
begin
  with expected as (
    select project_id, actions from project_access_expected where user_id = person and project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.user_id = person and a.project_id = any (refreshed)
       and not exists (select from expected e where e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions)
  select person, project_id, actions from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions
   where a.actions <> excluded.actions;
end $$;

-- Locks the teams with a grant on a project, and others that are named. The project's row is locked already, so no other
-- team gets a grant meanwhile.
create function lock_teams_of_project(locked uuid, others uuid[] default '{}') returns void language plpgsql as $$
begin
  perform from teams
    where id in (select team_id from project_grants where project_id = locked union all select unnest(others))
    order by id for no key update;
end $$;

-- What was committed while a lock was waited for is seen by the next statement of a transaction that reads what is
-- committed, and by no other.
create function require_read_committed() returns void language plpgsql as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'access is changed at read committed, not at %', current_setting('transaction_isolation');
  end if;
end $$;

create function project_access_on_project() returns trigger language plpgsql as $$
begin
  perform require_read_committed();
  if tg_op = 'UPDATE' then perform lock_teams_of_project(new.id); end if;
  perform refresh_project_access(array[new.id]);
  return null;
end $$;

create trigger project_access after insert or update of owner_id, visibility on projects
  for each row execute function project_access_on_project();

-- Before: its grants are still there to say which teams to lock.
create function project_access_before_removal() returns trigger language plpgsql as $$
begin
  perform lock_teams_of_project(old.id);
  return old;
end $$;

create trigger project_access_before before delete on projects
  for each row execute function project_access_before_removal();

create function project_access_after_removal() returns trigger language plpgsql as $$
begin
  delete from project_access where project_id = old.id;
  return null;
end $$;

create trigger project_access_after after delete on projects
  for each row execute function project_access_after_removal();

create function project_access_on_grant() returns trigger language plpgsql as $$
declare
  changed uuid;
begin
  perform require_read_committed();
  for changed in
    select id from projects where id in (old.project_id, new.project_id) order by id for no key update
  loop
    perform lock_teams_of_project(changed, array_remove(array[old.team_id, new.team_id], null));
    perform refresh_project_access(array[changed]);
  end loop;
  -- Gone with its project: so are the rows.
  return null;
end $$;

create trigger project_access after insert or update of project_id, team_id, access_level or delete on project_grants
  for each row execute function project_access_on_grant();

create function project_access_on_member() returns trigger language plpgsql as $$
declare
  granted uuid[];
  person uuid;
begin
  perform require_read_committed();
  perform from teams where id in (old.team_id, new.team_id) order by id for no key update;
  granted := array(select project_id from project_grants where team_id in (old.team_id, new.team_id));
  if granted = '{}' then return null; end if;
  for person in select distinct unnest(array_remove(array[old.user_id, new.user_id], null)) order by 1 loop
    -- Who is in two teams is changed in one at a time.
    perform pg_advisory_xact_lock(hashtextextended(person::text, 7301950218));
    perform refresh_project_access_of(person, granted);
  end loop;
  return null;
end $$;

create trigger project_access after insert or update of team_id, user_id, role or delete on team_members
  for each row execute function project_access_on_member();

-- Tells the transaction which rows it changed: names of grant facts, one a line, in settings that end with it. What is
-- in one setting is copied each time something is added, so there is a next one where one is full.
create function note_touched_grants() returns trigger language plpgsql as $$
declare
  names text := (select string_agg(concat(user_id, '/', project_id, e'\n'), '') from changed);
  place integer := coalesce(nullif(current_setting('velro.touched_place', true), ''), '0');
  before text := coalesce(current_setting('velro.touched_' || place, true), '');
begin
  if names is null then return null; end if;
  if length(before) > 8192 then
    place := place + 1;
    before := '';
    perform set_config('velro.touched_place', place::text, true);
  end if;
  perform set_config('velro.touched_' || place, before || names, true);
  return null;
end $$;

create function touched_grants() returns setof text language sql as $$
  select name
    from generate_series(0, coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer) place,
         string_to_table(current_setting('velro.touched_' || place, true), e'\n') name
   where name <> ''
$$;

create trigger touched_by_insert after insert on project_access
  referencing new table as changed for each statement execute function note_touched_grants();
create trigger touched_by_update after update on project_access
  referencing new table as changed for each statement execute function note_touched_grants();
create trigger touched_by_delete after delete on project_access
  referencing old table as changed for each statement execute function note_touched_grants();
