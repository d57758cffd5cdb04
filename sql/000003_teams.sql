-- Teams, the people in them, and the projects they are let into.

create table teams (
  id uuid primary key,
  name text not null,
  description text not null default '',
  max_members integer not null default 50,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint teams__name_length check (length(name) between 1 and 200),
  constraint teams__description_length check (length(description) <= 4000),
  constraint teams__max_members check (max_members between 1 and 1000)
);

create table team_members (
  team_id uuid not null references teams (id) on delete cascade,
  user_id uuid not null references users (id),
  role text not null,
  joined_at timestamptz not null default now(),
  constraint team_members__pkey primary key (team_id, user_id),
  constraint team_members__role check (role in ('owner', 'admin', 'editor', 'contributor', 'viewer'))
);

create index team_members__user_id on team_members (user_id, team_id);
-- A team has one owner. That it never has none is held by the rules: an owner hands over or deletes the team.
create unique index team_members__one_owner on team_members (team_id) where role = 'owner';

create table team_invitations (
  id uuid primary key,
  team_id uuid not null references teams (id) on delete cascade,
  -- Lower case, NFC, as users.email.
  email text not null,
  role text not null,
  secret_hash bytea not null,
  invited_by uuid not null references users (id),
  status text not null default 'pending',
  created_at timestamptz not null,
  expires_at timestamptz not null,
  decided_at timestamptz,
  constraint team_invitations__secret_hash unique (secret_hash),
  constraint team_invitations__role check (role in ('admin', 'editor', 'contributor', 'viewer')),
  -- One that ran out stays pending until another takes its place.
  constraint team_invitations__status check (status in ('pending', 'accepted', 'declined', 'cancelled', 'expired')),
  constraint team_invitations__secret_hash_length check (length(secret_hash) = 32),
  constraint team_invitations__decided check ((status = 'pending') = (decided_at is null))
);

create index team_invitations__team_id on team_invitations (team_id, id);
create index team_invitations__email on team_invitations (email);
-- One open invitation for one person; a new one takes its place.
create unique index team_invitations__pending on team_invitations (team_id, email) where status = 'pending';

create table project_grants (
  project_id uuid not null references projects (id) on delete cascade,
  team_id uuid not null references teams (id) on delete cascade,
  access_level text not null,
  granted_by uuid not null references users (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint project_grants__pkey primary key (project_id, team_id),
  constraint project_grants__access_level check (access_level in ('read', 'write', 'admin'))
);

create index project_grants__team_id on project_grants (team_id, project_id);
