-- Projects and the generations made in them.

create table projects (
  id uuid primary key,
  owner_id uuid not null references users (id),
  name text not null,
  description text not null default '',
  visibility text not null default 'private',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint projects__visibility check (visibility in ('private', 'team-only', 'public')),
  constraint projects__name_length check (length(name) between 1 and 200),
  constraint projects__description_length check (length(description) <= 4000)
);

create index projects__owner_id on projects (owner_id, id);
create index projects__public on projects (id) where visibility = 'public';

create table generations (
  id uuid primary key,
  owner_id uuid not null references users (id),
  -- A generation outlives its project: it falls back to its owner alone.
  project_id uuid references projects (id) on delete set null,
  model text not null,
  prompt text not null,
  status text not null default 'queued',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint generations__status check (status in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
  constraint generations__model_length check (length(model) between 1 and 128),
  constraint generations__prompt_length check (length(prompt) between 1 and 4000)
);

create index generations__owner_id on generations (owner_id, id);
create index generations__project_id on generations (project_id, id) where project_id is not null;
