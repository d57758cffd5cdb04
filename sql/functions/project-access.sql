-- Effective access: project_access holds which actions each user may do on each project, by owning it or through teams.
-- Triggers update it in the transaction that changes a project, a grant or a membership, so it is never stale. Public
-- access is not included, because it holds for every user.
--
-- One row depends on a project, its grants and the members of their teams. Two transactions that change different parts of
-- one row have to run one after the other, or each would compute it from the old part of the other. So a transaction that
-- changes
--   a project      locks its row, its access (an advisory lock), and the rows of all teams with a grant on it,
--   a grant        locks the same and the row of its team,
--   a membership   locks the row of the team, then the user (an advisory lock),
--   the second factor of a user   locks the account, the rows of all its teams, then the user (an advisory lock),
--   whether a team requires one   locks as its removal does: the projects granted to it, and all their teams,
-- and recomputes with a statement that starts after the locks are held. The second of two transactions therefore sees the
-- changes of the first. The order of locks is: project rows, their advisory locks, team rows, users; each by id. The advisory
-- lock of a project keeps out writes that were decided by the access to it (decision-locks.sql).

-- Computes effective access from the base tables. Filter by user or project: without a filter it reads all of them.
create or replace view project_access_expected as
  select user_id, project_id, bit_or(actions) as actions, bool_or(owned) as owned
    from (
      select p.owner_id as user_id, p.id as project_id, r.actions, true as owned
        from projects p join access_rules r on r.kind = 'owner' and r.name = 'project'
      union all
      select m.user_id, g.project_id, role.actions & level.actions, false
        from project_grants g
        join projects p on p.id = g.project_id and p.visibility <> 'private'
        join teams t on t.id = g.team_id
        join team_members m on m.team_id = g.team_id
        join access_rules role on role.kind = 'role' and role.name = m.role
        join access_rules level on level.kind = 'access_level' and level.name = g.access_level
       where not t.requires_second_factor or (select u.second_factor from users u where u.id = m.user_id)
    ) sources
   where actions > 0
   group by user_id, project_id;
comment on view project_access_expected is
  'Effective access computed from projects, grants, members, second factors and access_rules: the rows that project_access must hold.';

create or replace view project_access_difference as
  select user_id, project_id, actual.actions as actual, expected.actions as expected
    from project_access actual full join project_access_expected expected using (user_id, project_id)
   where (actual.actions, actual.owned) is distinct from (expected.actions, expected.owned);
comment on view project_access_difference is
  'Rows of project_access that differ from the base tables: always empty. Reads everything; for the scheduled check and for tests.';

-- Recomputes the rows of all users of some projects. Rows inserted otherwise are skipped, by the triggers given_rows and
-- given_statement, unless triggers are disabled. The caller holds the locks named above. Costs one row read for each
-- member of each team with a grant. Uses a generic plan, because planning takes longer than running.
create or replace function refresh_project_access(refreshed uuid[]) returns void language plpgsql
  set search_path from current set plan_cache_mode = force_generic_plan as $$
begin
  perform set_config('velro.computes_access', 'on', true);
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
  perform set_config('velro.computes_access', '', true);
end $$;
comment on function refresh_project_access(uuid[]) is
  'Recomputes project_access for all users of the given projects; the caller has locked the projects and their teams.';

-- As refresh_project_access, for one user: costs a few rows for each project. It is a separate function so that its generic
-- plan starts at the user.
create or replace function refresh_project_access_of(person uuid, refreshed uuid[]) returns void language plpgsql
  set search_path from current set plan_cache_mode = force_generic_plan as $$
begin
  perform set_config('velro.computes_access', 'on', true);
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
  perform set_config('velro.computes_access', '', true);
end $$;
comment on function refresh_project_access_of(uuid, uuid[]) is
  'Recomputes project_access for one user on the given projects; the caller has locked the team and the user.';

-- For the scheduled check, which found rows that differ.
create or replace function mend_project_access(mended uuid[]) returns void language plpgsql set search_path from current as $$
begin
  perform require_read_committed();
  perform from projects where id = any (mended) order by id for no key update;
  perform from teams
    where id in (select team_id from project_grants where project_id = any (mended)) order by id for no key update;
  perform refresh_project_access(mended);
end $$;
comment on function mend_project_access(uuid[]) is
  'Recomputes project_access for the given projects, under their locks.';

-- The caller has locked the project's row, so no other team gets a grant on it meanwhile. Team rows are locked by id.
create or replace function lock_teams_of_project(locked uuid, others uuid[] default '{}') returns void
  language plpgsql set search_path from current as $$
begin
  perform from teams
    where id in (select team_id from project_grants where project_id = locked union all select unnest(others))
    order by id for no key update;
end $$;
comment on function lock_teams_of_project(uuid, uuid[]) is
  'Locks for no key update all teams with a grant on a locked project, and the other teams given.';

-- After waiting for a lock, the next statement sees the commits made meanwhile only at read committed. At a higher level
-- the recomputation would use the old rows, so the change is refused.
create or replace function require_read_committed() returns void language plpgsql set search_path from current as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'access is changed at read committed, not at %', current_setting('transaction_isolation');
  end if;
end $$;
comment on function require_read_committed() is
  'Refuses to change access at another isolation level than read committed.';

create or replace function lock_project_access(changed uuid) returns void language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('project ' || changed, user_access_lock_seed()));
end $$;
comment on function lock_project_access(uuid) is
  'Waits for the writes that were decided by the access to a project, and keeps out further ones. Lock the project first.';

create or replace function lock_access_to_projects(changed uuid[]) returns void language plpgsql set search_path from current as $$
begin
  perform lock_project_access(id) from (select distinct id from unnest(changed) id order by id) ids;
end $$;
comment on function lock_access_to_projects(uuid[]) is
  'As lock_project_access, for several projects. Lock their rows first.';

create or replace function lock_projects_and_teams(changed uuid[], others uuid[]) returns void
  language plpgsql set search_path from current as $$
begin
  perform from projects where id = any (changed) order by id for no key update;
  perform lock_access_to_projects(changed);
  perform from teams
    where id in (select team_id from project_grants where project_id = any (changed) union all select unnest(others))
    order by id for no key update;
end $$;
comment on function lock_projects_and_teams(uuid[], uuid[]) is
  'Locks projects, the access to them, all teams with a grant on them and the other teams given, in the lock order.';

-- A change of two memberships locks both users before the first change: the trigger would lock them in the order of the changes.
create or replace function lock_access_of_users(changed uuid[]) returns void language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock(hashtextextended(id::text, user_access_lock_seed()))
    from (select distinct id from unnest(changed) id where id is not null order by id) ids;
end $$;
comment on function lock_access_of_users(uuid[]) is
  'Locks the effective access of users whose memberships change. Lock the teams first.';

create or replace function share_project_access(decided uuid[]) returns void
  language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('project ' || id, user_access_lock_seed()))
    from (select distinct id from unnest(decided) id order by id) ids;
end $$;
comment on function share_project_access(uuid[]) is
  'Locks the access to projects, so that a write that is decided by it holds until the commit.';

create or replace function project_access_on_project() returns trigger language plpgsql set search_path from current as $$
begin
  perform require_read_committed();
  if tg_op = 'UPDATE' then
    perform lock_project_access(new.id);
    perform lock_teams_of_project(new.id);
  else
    perform set_config('velro.new_project', new.id::text, true);
  end if;
  perform refresh_project_access(array[new.id]);
  return null;
end $$;
comment on function project_access_on_project() is
  'Recomputes the access to a project that is new or whose owner or visibility changed; locks its teams.';

-- Runs before the deletion, while the grants still say which teams to lock.
create or replace function project_access_before_removal() returns trigger language plpgsql set search_path from current as $$
begin
  perform lock_project_access(old.id);
  perform lock_teams_of_project(old.id);
  return old;
end $$;
comment on function project_access_before_removal() is
  'Locks the teams with a grant on a project that is about to be deleted.';

create or replace function project_access_after_removal() returns trigger language plpgsql set search_path from current as $$
begin
  delete from project_access where project_id = old.id;
  return null;
end $$;
comment on function project_access_after_removal() is
  'Deletes the access rows of a deleted project.';

-- A grant deleted with its project finds no project row to lock: the access rows are deleted with the project.
create or replace function project_access_on_grant() returns trigger language plpgsql set search_path from current as $$
declare
  changed uuid;
begin
  perform require_read_committed();
  for changed in
    select id from projects where id in (old.project_id, new.project_id) order by id for no key update
  loop
    perform lock_project_access(changed);
    perform lock_teams_of_project(changed, array_remove(array[old.team_id, new.team_id], null));
    perform refresh_project_access(array[changed]);
  end loop;
  return null;
end $$;
comment on function project_access_on_grant() is
  'Recomputes the access to the project of a changed grant; locks the project, then its teams.';

create or replace function project_access_on_member() returns trigger language plpgsql set search_path from current as $$
declare
  granted uuid[];
  person uuid;
begin
  perform require_read_committed();
  perform from teams where id in (old.team_id, new.team_id) order by id for no key update;
  granted := array(select project_id from project_grants where team_id in (old.team_id, new.team_id));
  if granted = '{}' then return null; end if;
  for person in select distinct unnest(array_remove(array[old.user_id, new.user_id], null)) order by 1 loop
    -- A user may be changed in two teams at once, whose row locks do not exclude each other.
    perform pg_advisory_xact_lock(hashtextextended(person::text, user_access_lock_seed()));
    perform refresh_project_access_of(person, granted);
  end loop;
  return null;
end $$;
comment on function project_access_on_member() is
  'Recomputes the access of a user whose membership changed; locks the team, then the user.';

-- TRUNCATE fires no row triggers. It has locked the whole table until the commit, so no other transaction changes access
-- meanwhile; the project rows are locked against a concurrent deletion. Reads everything, as the scheduled check does.
create or replace function project_access_on_truncate() returns trigger language plpgsql set search_path from current as $$
declare
  differing uuid[];
begin
  perform require_read_committed();
  differing := array(select distinct project_id from project_access_difference);
  perform from projects where id = any (differing) order by id for no key update;
  perform refresh_project_access(differing);
  return null;
end $$;
comment on function project_access_on_truncate() is
  'Recomputes all access that differs after team_members or project_grants was truncated.';

create or replace function project_access_on_truncate_of_projects() returns trigger language plpgsql set search_path from current as $$
begin
  delete from project_access;
  return null;
end $$;
comment on function project_access_on_truncate_of_projects() is
  'Deletes all access rows after projects was truncated.';
