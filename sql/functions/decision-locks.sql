-- Locks under which a write decides again whether its caller may do it. The guard of the route decided before the
-- transaction; a revocation may have been committed since. A decision made after these locks holds until the commit: a
-- change of its facts waits for the transaction.
--
-- Account and session are locked for share. Where a service acts for the account, `session` is the id of its key instead, and the
-- advisory lock of the key is held shared: a revocation takes it, and waits in turn. A row lock that many writes share could
-- hold it up. Access to a project depends on its row, its grants and the memberships of the
-- caller. A change of the project or of a grant takes the advisory lock of the project; a change of a membership takes that of
-- the user (project-access.sql). So
--   a write to something in a project   takes both advisory locks shared;
--   a write to the project itself       locks the project and all its teams for no key update, as its triggers do.
-- Advisory locks are granted in the order in which they are asked for, so a flood of orders cannot hold up a revocation, as it
-- could with row locks. The order is that of sql/README.md: accounts and sessions, projects, teams, users, generations.

create or replace function lock_signed_in(person uuid, session uuid) returns boolean language plpgsql set search_path from current as $$
begin
  perform from users where id = person and status = 'active' and not blocked for share;
  if not found then return false; end if;
  perform from sessions where id = session and user_id = person and ended_at is null for share;
  if found then return true; end if;
  perform pg_advisory_xact_lock_shared(hashtextextended(session::text, service_key_lock_seed()));
  perform from service_keys
    where id = session and revoked_at is null and not blocked
      and (allowed_networks is null
           or nullif(current_setting('velro.client_address', true), '')::inet <<= any (allowed_networks::inet[]));
  return found;
end $$;
comment on function lock_signed_in(uuid, uuid) is
  'Locks an active account and its live session for share, or the key of the service that acts for the account. False, where one of the two has ended or is blocked, or the key may not be used from the address in velro.client_address.';

create or replace function lock_project_decision(person uuid, session uuid, project uuid, granted uuid[])
  returns boolean language plpgsql set search_path from current as $$
begin
  if not lock_signed_in(person, session) then return false; end if;
  perform from projects where id = project for no key update;
  perform lock_project_access(project);
  perform lock_teams_of_project(
    project, array(select team_id from team_members where user_id = person and team_id = any (granted)));
  return true;
end $$;
comment on function lock_project_decision(uuid, uuid, uuid, uuid[]) is
  'Locks what decides whether a user may change a project: account, session, project, its teams, and those of the given teams that the user is a member of. False: not signed in.';

-- Reads the project of a generation before it locks the generation, to keep the order. Where the generation was moved meanwhile,
-- the locks of the block are given back and taken again with the new project: each is free at once, unless it is moved again.
-- The owners of changed generations are locked first: what a change gives back to them, such as the price, refers to them.
create or replace function lock_generation_decision(
  person uuid, session uuid, shared_projects uuid[], shared_generations uuid[], shared_media uuid[],
  changed_generations uuid[], changed_media uuid[]
) returns boolean language plpgsql set search_path from current as $$
declare
  written uuid[];
  shared uuid[];
  held uuid[];
begin
  if not lock_signed_in(person, session) then return false; end if;
  -- A write that names only projects, as most orders do, needs neither the rows of generations nor the block.
  if changed_generations = '{}' and changed_media = '{}' and shared_generations = '{}' and shared_media = '{}' then
    perform share_project_access(shared_projects);
    perform pg_advisory_xact_lock_shared(hashtextextended(person::text, user_access_lock_seed()));
    return true;
  end if;
  written := changed_generations || array(
    select generation_id from media where id = any (changed_media) and generation_id is not null);
  shared := shared_generations || array(
    select generation_id from media where id = any (shared_media) and generation_id is not null);
  perform from users
    where id in (select owner_id from generations where id = any (written)) order by id for key share;
  loop
    begin
      held := shared_projects || array(
        select project_id from generations where id = any (written || shared) and project_id is not null);
      perform share_project_access(held);
      perform pg_advisory_xact_lock_shared(hashtextextended(person::text, user_access_lock_seed()));
      perform from generations where id = any (written) order by id for no key update;
      perform from generations where id = any (shared) order by id for share;
      perform from generations
        where id = any (written || shared) and project_id is not null and project_id <> all (held);
      if not found then return true; end if;
      raise exception 'a generation was moved' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $$;
comment on function lock_generation_decision(uuid, uuid, uuid[], uuid[], uuid[], uuid[], uuid[]) is
  'Locks what decides whether a user may write to generations, media or into projects: account and session for share, the access to the projects and that of the user; generations and those of media for share, or for no key update where they are changed. False: not signed in.';
