-- The triggers that record webhook events, in the transaction of the change: an event exists exactly if its change was
-- committed. Each event is recorded once, with one delivery for each webhook that wants it. Where no webhook wants an event
-- nothing is written. The triggers lock nothing that another transaction may hold: they only insert rows.
--
-- The data of an event names accounts and resources by id only: no address, no name, no prompt.
--
-- `resource` is what deliveries are ordered by. The ordinal of an event is taken while the locks of its change are held, so
-- changes that exclude each other have ordinals in the order of their commits.

-- UUID version 7: the time in milliseconds, then random bits.
create or replace function webhook_event_id() returns uuid language sql volatile
  return encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1e3)::bigint) from 3) from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid;
comment on function webhook_event_id() is 'A new id for a webhook event: a UUID of version 7, so that ids have the order of time.';

-- The webhooks of these teams, and those of the operators if asked for.
create or replace function wanting_webhooks(kind text, of_teams uuid[], of_operators boolean) returns setof uuid
  language plpgsql stable set search_path from current as $$
begin
  return query select id from webhooks
    where enabled and kind = any (events) and (team_id = any (of_teams) or of_operators and team_id is null);
end $$;
comment on function wanting_webhooks(text, uuid[], boolean) is
  'The enabled webhooks that want events of a type: those of the given teams and, if asked for, those of the operators.';

-- Writes any number of events by one statement: a team may have thousands of members.
create or replace function record_webhook_events(
  kind text, about text, ids text[], details jsonb[], of_teams uuid[], of_operators boolean
) returns void language plpgsql set search_path from current as $$
begin
  if not exists (select from webhooks) then return; end if;
  with wanted as materialized (
    select id from wanting_webhooks(kind, of_teams, of_operators) id
  ), event as (
    insert into webhook_events (id, type, resource, data)
    select webhook_event_id(), kind, concat(about, ':', about_id), detail
      from unnest(ids, details) with ordinality as given (about_id, detail, place)
     where exists (select from wanted) order by place
    returning id, ordinal, resource
  )
  insert into webhook_deliveries (webhook_id, event_id, ordinal, resource, due_at)
  select w.id, e.id, e.ordinal, e.resource, case when kind like 'generation.%' or kind like 'alert.%' then 'epoch'::timestamptz end
    from wanted w cross join event e;
end $$;
comment on function record_webhook_events(text, text, text[], jsonb[], uuid[], boolean) is
  'Records events of one type, each about one resource, and their deliveries to the webhooks that want them. Writes nothing where none does.';

create or replace function record_webhook_event(
  kind text, about text, about_id text, details jsonb, of_teams uuid[], of_operators boolean
) returns void language plpgsql set search_path from current as $$
begin
  perform record_webhook_events(kind, about, array[about_id], array[details], of_teams, of_operators);
end $$;
comment on function record_webhook_event(text, text, text, jsonb, uuid[], boolean) is
  'As record_webhook_events, for one event.';

create or replace function webhook_on_new_users() returns trigger language plpgsql set search_path from current as $$
begin
  if exists (select from wanting_webhooks('user.created', '{}', true)) then
    perform record_webhook_events('user.created', 'user', array_agg(id::text order by id),
              array_agg(jsonb_build_object('user_id', id) order by id), '{}', true)
       from added;
  end if;
  return null;
end $$;
comment on function webhook_on_new_users() is 'Records user.created for each new account.';

-- Suspending an account ends all of its access, and activating it gives the access back.
create or replace function webhook_on_user_status() returns trigger language plpgsql set search_path from current as $$
begin
  if new.status = 'deleted' then
    perform record_webhook_event('user.closed', 'user', new.id::text, jsonb_build_object('user_id', new.id), '{}', true);
  else
    perform record_webhook_event('access.changed', 'user', new.id::text, jsonb_build_object(
      'project_id', null, 'team_id', null, 'user_ids', jsonb_build_array(new.id)), '{}', true);
  end if;
  return null;
end $$;
comment on function webhook_on_user_status() is
  'Records user.closed for a closed account, and access.changed for one that was suspended or activated.';

create or replace function webhook_on_session_end() returns trigger language plpgsql set search_path from current as $$
begin
  perform record_webhook_event('session.ended', 'user', old.user_id::text, jsonb_build_object(
    'session_id', old.id, 'user_id', old.user_id, 'reason', coalesce(new.end_reason, 'removed')), '{}', true);
  return null;
end $$;
comment on function webhook_on_session_end() is
  'Records session.ended for a session that was ended, or removed while it was live. Expiry is no event.';

create or replace function webhook_on_members() returns trigger language plpgsql set search_path from current as $$
begin
  if exists (select from webhooks) then
    perform record_webhook_events(tg_argv[0], 'team', array_agg(team_id::text order by user_id), array_agg(jsonb_build_object(
              'team_id', team_id, 'user_id', user_id, 'role', role) order by user_id), array[team_id], true)
       from changed group by team_id order by team_id;
  end if;
  return null;
end $$;
comment on function webhook_on_members() is
  'Records the event that is the argument of the trigger, team.member_added or team.member_removed, for each row.';

-- Operators learn of the access that results (webhook_on_access), a team of the access that it gives to its members.
create or replace function webhook_on_role() returns trigger language plpgsql set search_path from current as $$
begin
  perform record_webhook_event('access.changed', 'team', new.team_id::text, jsonb_build_object(
    'project_id', null, 'team_id', new.team_id, 'user_ids', jsonb_build_array(new.user_id)), array[new.team_id], false);
  return null;
end $$;
comment on function webhook_on_role() is
  'Records access.changed for the webhooks of a team in which a member got another role.';

-- A grant on a private project sleeps, so its changes change no access.
create or replace function webhook_on_grant() returns trigger language plpgsql set search_path from current as $$
declare
  team uuid := coalesce(new.team_id, old.team_id);
  project uuid := coalesce(new.project_id, old.project_id);
begin
  if not exists (select from projects where id = project and visibility = 'private') then
    perform record_webhook_event('access.changed', 'project', project::text, jsonb_build_object(
      'project_id', project, 'team_id', team, 'user_ids', null), array[team], false);
  end if;
  return null;
end $$;
comment on function webhook_on_grant() is
  'Records access.changed for the webhooks of a team whose grant on a project was made, changed or withdrawn.';

create or replace function webhook_on_visibility() returns trigger language plpgsql set search_path from current as $$
begin
  if (old.visibility = 'public') <> coalesce(new.visibility = 'public', false) then
    perform record_webhook_event('access.changed', 'project', old.id::text, jsonb_build_object(
      'project_id', old.id, 'team_id', null, 'user_ids', null), '{}', true);
  end if;
  if (old.visibility = 'private') <> (new.visibility = 'private') then
    perform record_webhook_event('access.changed', 'project', old.id::text, jsonb_build_object(
              'project_id', old.id, 'team_id', team_id, 'user_ids', null), array[team_id], false)
       from project_grants where project_id = old.id and exists (select from webhooks) order by team_id;
  end if;
  return null;
end $$;
comment on function webhook_on_visibility() is
  'Records access.changed for a project that became public or ceased to be it, and for the teams whose grants on it now count or sleep.';

-- The owner of a new project is left out: it is no access to a resource that existed before.
create or replace function webhook_on_access() returns trigger language plpgsql set search_path from current as $$
begin
  if exists (select from wanting_webhooks('access.changed', '{}', true)) then
    perform record_webhook_events('access.changed', 'project', array_agg(project_id::text order by project_id, part),
              array_agg(jsonb_build_object('project_id', project_id, 'team_id', null, 'user_ids', users)
                order by project_id, part), '{}', true)
       from (select project_id, part, jsonb_agg(user_id order by user_id) as users
               from (select project_id, user_id,
                            (row_number() over (partition by project_id order by user_id) - 1) / max_users_per_webhook_event() as part
                       from changed
                      where not owned or project_id::text is distinct from nullif(current_setting('velro.new_project', true), '')) numbered
              group by project_id, part) parts;
  end if;
  return null;
end $$;
comment on function webhook_on_access() is
  'Records access.changed for the users whose effective access to a project changed, up to 100 in one event.';

-- A team gets the generations in projects that are granted to it and not private: its members may read them.
create or replace function webhook_on_generation_end() returns trigger language plpgsql set search_path from current as $$
declare
  kind text := 'generation.' || new.status;
begin
  if exists (select from webhooks where enabled and kind = any (events)) then
    perform record_webhook_event(kind, 'generation', new.id::text, jsonb_build_object(
      'generation_id', new.id, 'owner_id', new.owner_id, 'project_id', new.project_id, 'model', new.model, 'failure', new.failure),
      array(select g.team_id from project_grants g join projects p on p.id = g.project_id
             where p.id = new.project_id and p.visibility <> 'private'), true);
  end if;
  return null;
end $$;
comment on function webhook_on_generation_end() is
  'Records generation.completed or generation.failed for a generation that ended so.';

create or replace function webhook_on_alert() returns trigger language plpgsql set search_path from current as $$
begin
  perform record_webhook_event(tg_argv[0], 'alert', new.id::text, jsonb_build_object(
    'alert_id', new.id, 'metric', new.metric, 'severity', new.severity, 'value', new.value, 'target', new.target,
    'samples', new.samples), '{}', true);
  return null;
end $$;
comment on function webhook_on_alert() is
  'Records the event that is the argument of the trigger, alert.opened, alert.raised or alert.cleared, for operators.';
