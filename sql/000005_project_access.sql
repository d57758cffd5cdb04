-- Who may do what on which project, as rows: a materialized view that is never stale, because triggers keep it in the
-- transaction of whoever changes what it is made of. What is public is for everyone and not in here.
--
-- Order of locks, so that two writers who would miss each other's rows wait instead: project row, then team rows by id.

-- The matrix of roles, access levels and actions. Its one source is the program (access/model), which writes it here at
-- the start and has everything recomputed when it changed.
create table access_rules (
  kind text not null,
  name text not null,
  actions integer not null,
  constraint access_rules__pkey primary key (kind, name),
  constraint access_rules__kind check (kind in ('role', 'access_level', 'owner'))
);

create table project_access (
  user_id uuid not null references users (id) on delete cascade,
  project_id uuid not null references projects (id) on delete cascade,
  actions integer not null,
  constraint project_access__pkey primary key (user_id, project_id),
  constraint project_access__actions check (actions > 0)
);

create index project_access__project_id on project_access (project_id, user_id);

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

-- Brings the rows of some projects up to date, of all their people or of one.
create function refresh_project_access(projects uuid[], person uuid default null) returns void
language sql as $$
  with expected as (
    select user_id, project_id, actions from project_access_expected
     where project_id = any (projects) and (person is null or user_id = person)
  ), gone as (
    delete from project_access a
     where a.project_id = any (projects) and (person is null or a.user_id = person)
       and not exists (select from expected e where e.user_id = a.user_id and e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions)
  select user_id, project_id, actions from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions
   where a.actions <> excluded.actions
$$;

create function project_access_on_project() returns trigger language plpgsql as $$
begin
  perform 1 from teams where id in (select team_id from project_grants where project_id = new.id) order by id for no key update;
  perform refresh_project_access(array[new.id]);
  return null;
end $$;

create trigger project_access after insert or update of owner_id, visibility on projects
  for each row execute function project_access_on_project();

create function project_access_on_grant() returns trigger language plpgsql as $$
declare
  changed project_grants := coalesce(new, old);
begin
  perform 1 from projects where id = changed.project_id for no key update;
  -- Gone with its project: so are the rows.
  if not found then return null; end if;
  perform 1 from teams where id = changed.team_id for no key update;
  perform refresh_project_access(array[changed.project_id]);
  return null;
end $$;

create trigger project_access after insert or update of access_level or delete on project_grants
  for each row execute function project_access_on_grant();

create function project_access_on_member() returns trigger language plpgsql as $$
declare
  changed team_members := coalesce(new, old);
begin
  perform 1 from teams where id = changed.team_id for no key update;
  perform refresh_project_access(
    array(select project_id from project_grants where team_id = changed.team_id), changed.user_id);
  return null;
end $$;

create trigger project_access after insert or update of role or delete on team_members
  for each row execute function project_access_on_member();

-- Tells the transaction which rows it changed, in velro.touched: names of grant facts, one a line.
create function note_touched_grants() returns trigger language plpgsql as $$
begin
  perform set_config('velro.touched', concat(current_setting('velro.touched', true),
    (select string_agg(concat(user_id, '/', project_id, e'\n'), '') from changed)), true);
  return null;
end $$;

create trigger touched_by_insert after insert on project_access
  referencing new table as changed for each statement execute function note_touched_grants();
create trigger touched_by_update after update on project_access
  referencing new table as changed for each statement execute function note_touched_grants();
create trigger touched_by_delete after delete on project_access
  referencing old table as changed for each statement execute function note_touched_grants();
