-- Second factors. users.second_factor says whether an account has one: an authenticator app that is confirmed, or a passkey. A team
-- may require one. Its members who have none have no access through it: see project_access_expected.
--
-- A change of a factor locks the account for update first, which bars that it joins a team, then the rows of its teams, as a change
-- of membership does. A change of what a team requires locks what the removal of the team locks. So of two changes that meet in one
-- row of project_access the second sees the first.

create or replace function refresh_second_factor() returns trigger language plpgsql set search_path from current as $$
declare
  person uuid := coalesce(new.user_id, old.user_id);
  enrolled boolean;
begin
  perform from users where id = person for update;
  enrolled := exists (select from totp_factors where user_id = person and confirmed_at is not null)
           or exists (select from passkeys where user_id = person);
  update users set second_factor = enrolled where id = person and second_factor <> enrolled;
  return null;
end $$;
comment on function refresh_second_factor() is
  'Keeps users.second_factor when an authenticator app or a passkey is added or removed; locks the account.';

create or replace function project_access_on_second_factor() returns trigger language plpgsql set search_path from current as $$
declare
  granted uuid[];
begin
  perform require_read_committed();
  perform from users where id = new.id for update;
  perform lock_teams_of_member(new.id, false);
  granted := array(
    select distinct g.project_id
      from team_members m
      join teams t on t.id = m.team_id and t.requires_second_factor
      join project_grants g on g.team_id = m.team_id
     where m.user_id = new.id);
  if granted = '{}' then return null; end if;
  perform lock_access_of_users(array[new.id]);
  perform refresh_project_access_of(new.id, granted);
  return null;
end $$;
comment on function project_access_on_second_factor() is
  'Recomputes the access of a user who got the first second factor or lost the last one, through teams that require one.';

create or replace function lacks_required_factor(team uuid, person uuid) returns boolean language sql stable
begin atomic
  select exists (
    select from teams t
     where t.id = team and t.requires_second_factor and not (select u.second_factor from users u where u.id = person));
end;
comment on function lacks_required_factor(uuid, uuid) is
  'Whether a team requires a second factor that this user does not have.';

-- For the owner of a team alone; the service decides. Locks as the removal of a team does, before the row of the team is changed.
create or replace function project_access_on_requirement() returns trigger language plpgsql set search_path from current as $$
declare
  granted uuid[];
begin
  perform require_read_committed();
  granted := array(select project_id from project_grants where team_id = new.id);
  perform lock_projects_and_teams(granted, array[new.id]);
  perform refresh_project_access(granted);
  return null;
end $$;
comment on function project_access_on_requirement() is
  'Recomputes the access to the projects of a team that begins or ceases to require a second factor.';

-- Closed accounts keep none of it.
create or replace function forget_factors_of_user() returns trigger language plpgsql set search_path from current as $$
begin
  delete from recovery_codes where user_id = new.id;
  delete from totp_factors where user_id = new.id;
  delete from passkeys where user_id = new.id;
  return null;
end $$;
comment on function forget_factors_of_user() is 'Deletes the second factors of an account that was closed.';
