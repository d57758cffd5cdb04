-- The schema as the migrations leave it, read from the catalog. To be reviewed, never to be run or edited: a test
-- compares it, and writes it anew when told so (UPDATE_SCHEMA=1 bun test test/sql). Partitions made while running are
-- left out.

create table generations (
  id uuid not null,
  owner_id uuid not null,
  project_id uuid,
  model text not null,
  prompt text not null,
  status text default 'queued'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint generations_pkey PRIMARY KEY (id),
  constraint generations_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint generations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE SET NULL,
  constraint generations__model_length CHECK (((length(model) >= 1) AND (length(model) <= 128))),
  constraint generations__prompt_length CHECK (((length(prompt) >= 1) AND (length(prompt) <= 4000))),
  constraint generations__status CHECK ((status = ANY (ARRAY['queued'::text, 'processing'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
);
CREATE INDEX generations__owner_id ON public.generations USING btree (owner_id, id);
CREATE INDEX generations__project_id ON public.generations USING btree (project_id, id) WHERE (project_id IS NOT NULL);

create table projects (
  id uuid not null,
  owner_id uuid not null,
  name text not null,
  description text default ''::text not null,
  visibility text default 'private'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint projects_pkey PRIMARY KEY (id),
  constraint projects_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint projects__description_length CHECK ((length(description) <= 4000)),
  constraint projects__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  constraint projects__visibility CHECK ((visibility = ANY (ARRAY['private'::text, 'team-only'::text, 'public'::text])))
);
CREATE INDEX projects__owner_id ON public.projects USING btree (owner_id, id);
CREATE INDEX projects__public ON public.projects USING btree (id) WHERE (visibility = 'public'::text);

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
