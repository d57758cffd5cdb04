-- The schema as the migrations leave it, read from the catalog. To be reviewed, never to be run or edited: a test
-- compares it, and writes it anew when told so (UPDATE_SCHEMA=1 bun test test/sql). Partitions made while running are
-- left out.

CREATE OR REPLACE FUNCTION public.lock_teams_of_project(locked uuid, others uuid[] DEFAULT '{}'::uuid[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  perform from teams
    where id in (select team_id from project_grants where project_id = locked union all select unnest(others))
    order by id for no key update;
end $function$;

CREATE OR REPLACE FUNCTION public.note_touched_grants()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.project_access_after_removal()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  delete from project_access where project_id = old.id;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION public.project_access_before_removal()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  perform lock_teams_of_project(old.id);
  return old;
end $function$;

CREATE OR REPLACE FUNCTION public.project_access_on_grant()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.project_access_on_member()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.project_access_on_project()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  perform require_read_committed();
  if tg_op = 'UPDATE' then perform lock_teams_of_project(new.id); end if;
  perform refresh_project_access(array[new.id]);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION public.refresh_project_access(refreshed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.refresh_project_access_of(person uuid, refreshed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.require_read_committed()
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'access is changed at read committed, not at %', current_setting('transaction_isolation');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION public.touched_grants()
 RETURNS SETOF text
 LANGUAGE sql
AS $function$
  select name
    from generate_series(0, coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer) place,
         string_to_table(current_setting('velro.touched_' || place, true), e'\n') name
   where name <> ''
$function$;

create table access_rules (
  kind text not null,
  name text not null,
  actions integer not null,
  constraint access_rules__pkey PRIMARY KEY (kind, name),
  constraint access_rules__kind CHECK ((kind = ANY (ARRAY['role'::text, 'access_level'::text, 'owner'::text])))
);

create table generation_favorites (
  user_id uuid not null,
  generation_id uuid not null,
  created_at timestamp with time zone default now() not null,
  constraint generation_favorites__pkey PRIMARY KEY (user_id, generation_id),
  constraint generation_favorites__generation_id FOREIGN KEY (generation_id) REFERENCES generations(id) ON DELETE CASCADE,
  constraint generation_favorites__user_id FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
);
CREATE INDEX generation_favorites__by_generation ON public.generation_favorites USING btree (generation_id);

create table generations (
  id uuid not null,
  owner_id uuid not null,
  project_id uuid,
  model text not null,
  prompt text not null,
  status text default 'queued'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  title text default ''::text not null,
  intent text default 'original'::text not null,
  ancestor_ids uuid[] default '{}'::uuid[] not null,
  constraint generations_pkey PRIMARY KEY (id),
  constraint generations_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint generations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE SET NULL,
  constraint generations__depth CHECK ((cardinality(ancestor_ids) <= 64)),
  constraint generations__intent CHECK ((intent = ANY (ARRAY['original'::text, 'improve'::text, 'iterate'::text, 'fork'::text, 'remix'::text]))),
  constraint generations__model_length CHECK (((length(model) >= 1) AND (length(model) <= 128))),
  constraint generations__original_has_no_parent CHECK (((intent = 'original'::text) = (cardinality(ancestor_ids) = 0))),
  constraint generations__prompt_length CHECK (((length(prompt) >= 1) AND (length(prompt) <= 4000))),
  constraint generations__status CHECK ((status = ANY (ARRAY['queued'::text, 'processing'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
  constraint generations__title_length CHECK ((length(title) <= 200))
);
CREATE INDEX generations__owner_id ON public.generations USING btree (owner_id, id);
CREATE INDEX generations__project_id ON public.generations USING btree (project_id, id) WHERE (project_id IS NOT NULL);

create table project_access (
  user_id uuid not null,
  project_id uuid not null,
  actions integer not null,
  constraint project_access__pkey PRIMARY KEY (user_id, project_id) INCLUDE (actions),
  constraint project_access__actions CHECK ((actions > 0))
);
CREATE INDEX project_access__project_id ON public.project_access USING btree (project_id, user_id) INCLUDE (actions);
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.project_access REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();
CREATE TRIGGER touched_by_insert AFTER INSERT ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();

create table project_grants (
  project_id uuid not null,
  team_id uuid not null,
  access_level text not null,
  granted_by uuid not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint project_grants__pkey PRIMARY KEY (project_id, team_id),
  constraint project_grants_granted_by_fkey FOREIGN KEY (granted_by) REFERENCES users(id),
  constraint project_grants_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE,
  constraint project_grants_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint project_grants__access_level CHECK ((access_level = ANY (ARRAY['read'::text, 'write'::text, 'admin'::text])))
);
CREATE INDEX project_grants__team_id ON public.project_grants USING btree (team_id, project_id);
CREATE TRIGGER project_access AFTER INSERT OR DELETE OR UPDATE OF project_id, team_id, access_level ON public.project_grants FOR EACH ROW EXECUTE FUNCTION project_access_on_grant();

create table projects (
  id uuid not null,
  owner_id uuid not null,
  name text not null,
  description text default ''::text not null,
  visibility text default 'private'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  allow_derivatives boolean default true not null,
  constraint projects_pkey PRIMARY KEY (id),
  constraint projects_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint projects__description_length CHECK ((length(description) <= 4000)),
  constraint projects__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  constraint projects__visibility CHECK ((visibility = ANY (ARRAY['private'::text, 'team-only'::text, 'public'::text])))
);
CREATE INDEX projects__owner_id ON public.projects USING btree (owner_id, id);
CREATE INDEX projects__public ON public.projects USING btree (id) WHERE (visibility = 'public'::text);
CREATE TRIGGER project_access AFTER INSERT OR UPDATE OF owner_id, visibility ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_on_project();
CREATE TRIGGER project_access_after AFTER DELETE ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_after_removal();
CREATE TRIGGER project_access_before BEFORE DELETE ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_before_removal();

create table refresh_tokens (
  token_hash bytea not null,
  session_id uuid not null,
  issued_at timestamp with time zone not null,
  rotated_at timestamp with time zone,
  constraint refresh_tokens_pkey PRIMARY KEY (token_hash),
  constraint refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions(id) ON DELETE CASCADE,
  constraint refresh_tokens__token_hash_length CHECK ((length(token_hash) = 32))
);
CREATE INDEX refresh_tokens__session_id ON public.refresh_tokens USING btree (session_id);

create table schema_migrations (
  version integer not null,
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone default now() not null,
  constraint schema_migrations_pkey PRIMARY KEY (version)
);

create table service_keys (
  id uuid not null,
  name text not null,
  secret_hash bytea not null,
  scopes text[] not null,
  created_by uuid not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone,
  last_used_at timestamp with time zone,
  revoked_at timestamp with time zone,
  constraint service_keys_pkey PRIMARY KEY (id),
  constraint service_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES users(id),
  constraint service_keys__has_scopes CHECK ((cardinality(scopes) > 0)),
  constraint service_keys__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  constraint service_keys__secret_hash_length CHECK ((length(secret_hash) = 32))
);

create table sessions (
  id uuid not null,
  user_id uuid not null,
  user_agent text not null,
  address text not null,
  created_at timestamp with time zone not null,
  last_seen_at timestamp with time zone not null,
  idle_expires_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  end_reason text,
  constraint sessions_pkey PRIMARY KEY (id),
  constraint sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint sessions__end_reason CHECK ((end_reason = ANY (ARRAY['logout'::text, 'logout_all'::text, 'ended_by_user'::text, 'password_changed'::text, 'refresh_reused'::text, 'account_closed'::text]))),
  constraint sessions__ended_has_reason CHECK (((ended_at IS NULL) = (end_reason IS NULL)))
);
CREATE INDEX sessions__ended_at ON public.sessions USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX sessions__expires_at ON public.sessions USING btree (expires_at);
CREATE INDEX sessions__live_by_user ON public.sessions USING btree (user_id, id) WHERE (ended_at IS NULL);

create table signing_keys (
  kid text not null,
  public_jwk jsonb not null,
  sealed_private_key bytea not null,
  activates_at timestamp with time zone not null,
  retires_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  created_at timestamp with time zone default now() not null,
  constraint signing_keys_pkey PRIMARY KEY (kid),
  constraint signing_keys__order CHECK (((activates_at < retires_at) AND (retires_at < expires_at)))
);

create table team_invitations (
  id uuid not null,
  team_id uuid not null,
  email text not null,
  role text not null,
  secret_hash bytea not null,
  invited_by uuid not null,
  status text default 'pending'::text not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  decided_at timestamp with time zone,
  constraint team_invitations_pkey PRIMARY KEY (id),
  constraint team_invitations__secret_hash UNIQUE (secret_hash),
  constraint team_invitations_invited_by_fkey FOREIGN KEY (invited_by) REFERENCES users(id),
  constraint team_invitations_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint team_invitations__decided CHECK (((status = 'pending'::text) = (decided_at IS NULL))),
  constraint team_invitations__role CHECK ((role = ANY (ARRAY['admin'::text, 'editor'::text, 'contributor'::text, 'viewer'::text]))),
  constraint team_invitations__secret_hash_length CHECK ((length(secret_hash) = 32)),
  constraint team_invitations__status CHECK ((status = ANY (ARRAY['pending'::text, 'accepted'::text, 'declined'::text, 'cancelled'::text, 'expired'::text])))
);
CREATE INDEX team_invitations__email ON public.team_invitations USING btree (email);
CREATE UNIQUE INDEX team_invitations__pending ON public.team_invitations USING btree (team_id, email) WHERE (status = 'pending'::text);
CREATE INDEX team_invitations__team_id ON public.team_invitations USING btree (team_id, id);

create table team_members (
  team_id uuid not null,
  user_id uuid not null,
  role text not null,
  joined_at timestamp with time zone default now() not null,
  constraint team_members__pkey PRIMARY KEY (team_id, user_id),
  constraint team_members_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint team_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id),
  constraint team_members__role CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'editor'::text, 'contributor'::text, 'viewer'::text])))
);
CREATE UNIQUE INDEX team_members__one_owner ON public.team_members USING btree (team_id) WHERE (role = 'owner'::text);
CREATE INDEX team_members__user_id ON public.team_members USING btree (user_id, team_id);
CREATE TRIGGER project_access AFTER INSERT OR DELETE OR UPDATE OF team_id, user_id, role ON public.team_members FOR EACH ROW EXECUTE FUNCTION project_access_on_member();

create table teams (
  id uuid not null,
  name text not null,
  description text default ''::text not null,
  max_members integer default 50 not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint teams_pkey PRIMARY KEY (id),
  constraint teams__description_length CHECK ((length(description) <= 4000)),
  constraint teams__max_members CHECK (((max_members >= 1) AND (max_members <= 1000))),
  constraint teams__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);

create table users (
  id uuid not null,
  email text,
  display_name text not null,
  password_hash text,
  status text default 'active'::text not null,
  role text default 'user'::text not null,
  plan text default 'free'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint users_pkey PRIMARY KEY (id),
  constraint users__email UNIQUE (email),
  constraint users__deleted_keeps_nothing CHECK ((((status = 'deleted'::text) = (email IS NULL)) AND ((status = 'deleted'::text) = (password_hash IS NULL)))),
  constraint users__email_length CHECK ((length(email) <= 254)),
  constraint users__plan CHECK ((plan = ANY (ARRAY['free'::text, 'pro'::text, 'enterprise'::text]))),
  constraint users__role CHECK ((role = ANY (ARRAY['user'::text, 'admin'::text]))),
  constraint users__status CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text, 'deleted'::text])))
);

create view project_access_difference as
 SELECT user_id,
    project_id,
    actual.actions AS actual,
    expected.actions AS expected
   FROM (project_access actual
     FULL JOIN project_access_expected expected USING (user_id, project_id))
  WHERE (actual.actions IS DISTINCT FROM expected.actions);

create view project_access_expected as
 SELECT user_id,
    project_id,
    bit_or(actions) AS actions
   FROM ( SELECT p.owner_id AS user_id,
            p.id AS project_id,
            r.actions
           FROM (projects p
             JOIN access_rules r ON (((r.kind = 'owner'::text) AND (r.name = 'project'::text))))
        UNION ALL
         SELECT m.user_id,
            g.project_id,
            (role.actions & level.actions)
           FROM ((((project_grants g
             JOIN projects p ON (((p.id = g.project_id) AND (p.visibility <> 'private'::text))))
             JOIN team_members m ON ((m.team_id = g.team_id)))
             JOIN access_rules role ON (((role.kind = 'role'::text) AND (role.name = m.role))))
             JOIN access_rules level ON (((level.kind = 'access_level'::text) AND (level.name = g.access_level))))) sources
  WHERE (actions > 0)
  GROUP BY user_id, project_id;
