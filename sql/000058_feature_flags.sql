-- Feature flags, with every version of each. Instances of the version before run on this schema and evaluate none: they drop the keys
-- of facts that they do not know.
-- functions: 4c07c3bb47f5e7eb10d353d73d653aa2600e12a474bfa2448add184584ac4f69

create table feature_flags (
  id uuid not null,
  name text not null,
  version integer not null,
  definition jsonb not null,
  description text not null,
  updated_at timestamptz not null,
  updated_by uuid not null references users (id),
  constraint feature_flags_pkey primary key (id),
  constraint feature_flags__name_once unique (name),
  constraint feature_flags__name check (name ~ '^[a-z0-9][a-z0-9-]*$' and length(name) <= 64),
  constraint feature_flags__version check (version > 0),
  constraint feature_flags__definition check (jsonb_typeof(definition) = 'object'),
  constraint feature_flags__description check (length(description) <= 500)
);
comment on table feature_flags is 'Features that are on for some people: for a share of them, for plans, teams and single users.';
comment on column feature_flags.definition is 'For whom it is on; see src/access/policy/facts/feature-flags.ts. Ids of accounts are removed from it when they are closed.';

create table feature_flag_versions (
  id uuid not null,
  name text not null,
  version integer not null,
  definition jsonb,
  description text not null,
  restored_from integer,
  changed_at timestamptz not null,
  changed_by uuid not null references users (id),
  constraint feature_flag_versions_pkey primary key (id),
  constraint feature_flag_versions__once unique (name, version),
  constraint feature_flag_versions__name check (name ~ '^[a-z0-9][a-z0-9-]*$' and length(name) <= 64),
  constraint feature_flag_versions__version check (version > 0),
  constraint feature_flag_versions__definition check (definition is null or jsonb_typeof(definition) = 'object'),
  constraint feature_flag_versions__restored_from check (restored_from < version)
);
comment on table feature_flag_versions is 'What each feature flag was, the newest version being the one in force. Any of them can be restored.';
comment on column feature_flag_versions.definition is 'Null: the flag was removed by this version.';
comment on column feature_flag_versions.restored_from is 'The version whose definition this one has again. Null: it is no restored one.';

create or replace function note_changed_feature_flags() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function note_changed_memberships() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function note_moved_memberships() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger touched_by_change after insert or update or delete on feature_flags
  for each statement execute function note_changed_feature_flags();
create trigger touched_by_truncate after truncate on feature_flags
  for each statement execute function note_everything();
create trigger touched_by_insert after insert on team_members
  referencing new table as changed for each statement execute function note_changed_memberships();
create trigger touched_by_delete after delete on team_members
  referencing old table as changed for each statement execute function note_changed_memberships();
create trigger touched_by_update after update on team_members
  referencing old table as before new table as after for each statement execute function note_moved_memberships();
create trigger touched_by_truncate after truncate on team_members
  for each statement execute function note_everything();
