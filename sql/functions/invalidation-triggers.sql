-- The triggers that record invalidation keys, one for each table that a cached fact is read from. They run once for each
-- statement, lock nothing, and read only the rows that the statement changed.
--
-- An insert records no key, except for grants, flags and restrictions: no cache knows the id of a new row. An update records a key only
-- if a column that the fact contains has changed. The joins are full joins, so an update of the id invalidates both ids.

create or replace function note_changed_users() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('account:', id, e'\n'), '') from before b full join after a using (id)
     where (a.status, a.role, a.plan, a.limits, a.blocked)
           is distinct from (b.status, b.role, b.plan, b.limits, b.blocked)));
  return null;
end $$;
comment on function note_changed_users() is
  'Records account:<id> for each account whose status, role, plan, limits or block changed.';

create or replace function note_changed_profiles() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('profile:', id, e'\n'), '') from before b full join after a using (id)
     where (a.email, a.display_name, a.role, a.plan, a.status, a.created_at, a.email_verified_at is null, a.second_factor,
            a.updated_at)
           is distinct from
           (b.email, b.display_name, b.role, b.plan, b.status, b.created_at, b.email_verified_at is null, b.second_factor,
            b.updated_at)));
  return null;
end $$;
comment on function note_changed_profiles() is
  'Records profile:<id> for each account of which something changed that its owner is shown.';

create or replace function note_changed_sessions() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before b full join after a using (id)
     where (a.user_id, a.ended_at is null, least(a.idle_expires_at, a.expires_at), coalesce(a.authenticated_at, a.created_at),
            a.country, a.earlier_countries, a.network_hash, a.browser, a.platform, a.seen_country, a.seen_at)
           is distinct from
           (b.user_id, b.ended_at is null, least(b.idle_expires_at, b.expires_at), coalesce(b.authenticated_at, b.created_at),
            b.country, b.earlier_countries, b.network_hash, b.browser, b.platform, b.seen_country, b.seen_at)));
  return null;
end $$;
comment on function note_changed_sessions() is
  'Records session:<id> for each session whose user, end, expiry, time of authentication or origin changed.';

create or replace function note_removed_sessions() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before
     where ended_at is null and least(idle_expires_at, expires_at) > now()));
  return null;
end $$;
comment on function note_removed_sessions() is
  'Records session:<id> for each deleted session that was live. An ended or expired one is refused with or without its row.';

create or replace function note_changed_projects() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('project:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.visibility, a.allow_derivatives)
           is distinct from (b.owner_id, b.visibility, b.allow_derivatives)));
  return null;
end $$;
comment on function note_changed_projects() is
  'Records project:<id> for each project whose owner, visibility or allow_derivatives changed.';

create or replace function note_changed_generations() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('generation:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.project_id, a.status)
           is distinct from (b.owner_id, b.project_id, b.status)));
  return null;
end $$;
comment on function note_changed_generations() is
  'Records generation:<id> for each generation whose owner, project or status changed.';

create or replace function note_changed_media() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('media:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.generation_id, a.sha256)
           is distinct from (b.owner_id, b.generation_id, b.sha256)));
  return null;
end $$;
comment on function note_changed_media() is
  'Records media:<id> for each media row whose owner, generation or object changed.';

create or replace function note_changed_service_keys() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('service_key:', id, e'\n'), '') from before b full join after a using (id)
     where (a.secret_hash, a.scopes, a.revoked_at is null, a.blocked, a.expires_at, a.limit_per_second, a.allowed_networks)
           is distinct from
           (b.secret_hash, b.scopes, b.revoked_at is null, b.blocked, b.expires_at, b.limit_per_second, b.allowed_networks)));
  return null;
end $$;
comment on function note_changed_service_keys() is
  'Records service_key:<id> for each key whose secret, scopes, revocation, block, expiry, limit or networks changed.';

create or replace function note_changed_flags() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((select string_agg(concat('flag:', name, '=', enabled, e'\n'), '') from after));
  return null;
end $$;
comment on function note_changed_flags() is
  'Records flag:<name>=<enabled> for each inserted or updated flag; the key carries the new value.';

-- The owner of a new project needs no key: no cache knows the project yet. A team member granted access by the same
-- statement does, because all grants of a user are also cached as one fact, which is complete for new projects too.
create or replace function note_touched_grants() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(concat('grant:', user_id, '/', project_id, e'\n'), '') from changed
     where not owned or project_id::text is distinct from nullif(current_setting('velro.new_project', true), '')));
  return null;
end $$;
comment on function note_touched_grants() is
  'Records grant:<user>/<project> for each changed row of project_access, except the owner of a project that is new.';

create or replace function note_removed() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((select string_agg(concat(tg_argv[0], ':', id, e'\n'), '') from before));
  return null;
end $$;
comment on function note_removed() is
  'Records <kind>:<id> for each deleted row; the kind is the argument of the trigger.';

create or replace function note_everything() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched(e'*\n');
  return null;
end $$;
comment on function note_everything() is
  'Records *, which invalidates everything: TRUNCATE does not say which rows it removes.';
