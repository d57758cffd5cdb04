-- Teams whose owner closes the account, is deleted or is suspended pass to another member.

-- The owner after `person`: the first by role, then by time of joining. A suspended member follows only where the owner
-- leaves for good and no active member is left. Null if no member can follow. Lock the team first.
create or replace function successor_of(team uuid, person uuid, leaving boolean) returns uuid language sql stable
begin atomic
  select m.user_id
    from team_members m join users u on u.id = m.user_id
   where m.team_id = team and m.user_id <> person and (u.status = 'active' or leaving and u.status = 'suspended')
   order by u.status = 'active' desc, array_position(array['owner', 'admin', 'editor', 'contributor', 'viewer'], m.role),
            m.joined_at, m.user_id
   limit 1;
end;
comment on function successor_of(uuid, uuid, boolean) is
  'The member to whom a team passes when its owner is suspended or, if leaving, goes for good.';

-- Locks what the removal of a team recomputes: the projects granted to it, the access to each, and all teams with a grant on
-- them. A project that was granted before the row of the team was locked is found afterwards: then the locks are given back and
-- taken again in their order. Locks nothing for a user who is not the owner.
create or replace function lock_team_removal(team uuid, person uuid) returns void language plpgsql set search_path from current as $$
declare
  granted uuid[];
begin
  perform from team_members where team_id = team and user_id = person and role = 'owner';
  if not found then return; end if;
  loop
    begin
      granted := array(select project_id from project_grants where team_id = team);
      perform lock_projects_and_teams(granted, array[team]);
      perform from project_grants where team_id = team and project_id <> all (granted);
      if not found then return; end if;
      raise exception 'another project was granted' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $$;
comment on function lock_team_removal(uuid, uuid) is
  'Locks a team that its owner removes, with the projects granted to it and their teams.';

-- The projects granted to teams that have no other member, and are deleted when this one leaves for good.
create or replace function projects_of_only_member(person uuid) returns uuid[] language sql stable
begin atomic
  select coalesce(array_agg(g.project_id), '{}')
    from team_members m join project_grants g on g.team_id = m.team_id
   where m.user_id = person and m.role = 'owner'
     and not exists (select from team_members o where o.team_id = m.team_id and o.user_id <> person);
end;
comment on function projects_of_only_member(uuid) is
  'Projects granted to the teams whose only member is this user.';

-- Locks every team of the user, not only the owned ones: of two members who are suspended at the same time the second then
-- sees what passed to it from the first. Where the user leaves for good, teams without another member are deleted, so the
-- projects granted to them are locked before, with all their teams. Takes the locks again as lock_team_removal does.
create or replace function lock_teams_of_member(person uuid, leaving boolean) returns void language plpgsql set search_path from current as $$
declare
  granted uuid[];
begin
  loop
    begin
      granted := case when leaving then projects_of_only_member(person) else '{}' end;
      perform lock_projects_and_teams(granted, array(select team_id from team_members where user_id = person));
      if not leaving or projects_of_only_member(person) <@ granted then return; end if;
      raise exception 'another project was granted' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $$;
comment on function lock_teams_of_member(uuid, boolean) is
  'Locks for no key update all teams of a user and, if leaving, the projects of teams without another member.';

create or replace function pass_teams(person uuid, leaving boolean) returns void language plpgsql set search_path from current as $$
declare
  owned uuid;
  successor uuid;
begin
  perform lock_teams_of_member(person, leaving);
  perform lock_access_of_users(person || array(
    select successor_of(team_id, person, leaving) from team_members where user_id = person and role = 'owner'));
  for owned in select team_id from team_members where user_id = person and role = 'owner' order by team_id loop
    successor := successor_of(owned, person, leaving);
    if successor is not null then
      update team_members set role = 'admin' where team_id = owned and user_id = person;
      update team_members set role = 'owner' where team_id = owned and user_id = successor;
    elsif leaving then
      delete from project_grants where team_id = owned;
      delete from teams where id = owned;
    end if;
  end loop;
  if leaving then delete from team_members where user_id = person; end if;
end $$;
comment on function pass_teams(uuid, boolean) is
  'Passes the teams that a user owns to their successors. If leaving, deletes teams without one, and ends every membership.';

create or replace function pass_teams_of_user() returns trigger language plpgsql set search_path from current as $$
begin
  perform pass_teams(new.id, new.status = 'deleted');
  return null;
end $$;
comment on function pass_teams_of_user() is
  'Passes on the teams of an account that was suspended or deleted, also by hand.';
