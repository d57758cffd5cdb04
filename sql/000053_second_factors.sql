-- Second factors: authenticator apps, passkeys and recovery codes; and teams that require one. Instances of the version before run
-- on this schema. They sign people in without asking for the second factor, so turn second factors on once none of them is left.
-- functions: 1c7e042af6f5d44cd6da28ee96f80b13a08a9ce61dff1a3b7bcf5f4fa2358965

create table totp_factors (
  user_id uuid not null references users (id) on delete cascade,
  sealed_secret bytea not null,
  last_step bigint not null default 0,
  created_at timestamptz not null,
  confirmed_at timestamptz,
  constraint totp_factors_pkey primary key (user_id),
  constraint totp_factors__last_step check (last_step >= 0)
);
comment on table totp_factors is 'Authenticator apps of accounts (RFC 6238).';
comment on column totp_factors.sealed_secret is 'Encrypted under a key derived from SECRET, for this account alone.';
comment on column totp_factors.last_step is 'The time step of the last accepted code: it and those before are refused.';
comment on column totp_factors.confirmed_at is 'Null until a first code has shown that the app works. Until then it is no factor.';

create table passkeys (
  id uuid not null,
  user_id uuid not null references users (id) on delete cascade,
  credential_id bytea not null,
  public_key bytea not null,
  counter bigint not null,
  transports text[] not null,
  backup_eligible boolean not null,
  backed_up boolean not null,
  name text not null,
  created_at timestamptz not null,
  last_used_at timestamptz,
  constraint passkeys_pkey primary key (id),
  constraint passkeys__credential_id unique (credential_id),
  constraint passkeys__credential_id_length check (length(credential_id) between 1 and 1023),
  constraint passkeys__public_key_length check (length(public_key) between 1 and 2048),
  constraint passkeys__counter check (counter >= 0)
);
comment on table passkeys is 'Passkeys of accounts (Web Authentication, Level 3). They hold no secret.';
comment on column passkeys.public_key is 'COSE key.';
comment on column passkeys.counter is 'Of the last accepted signature; 0 where the authenticator does not count.';
comment on column passkeys.backup_eligible is 'Whether it may be copied to other devices of its owner.';
comment on column passkeys.backed_up is 'Whether it was, as of its last use.';
create index passkeys__user_id on passkeys (user_id);

create table recovery_codes (
  user_id uuid not null references users (id) on delete cascade,
  code_hash bytea not null,
  created_at timestamptz not null,
  constraint recovery_codes_pkey primary key (user_id, code_hash),
  constraint recovery_codes__code_hash_length check (length(code_hash) = 32)
);
comment on table recovery_codes is 'Unused recovery codes. Each stands in for a second factor once; then its row is deleted.';
comment on column recovery_codes.code_hash is 'SHA-256 of the account and of 120 random bits.';

create table used_challenges (
  challenge_hash bytea not null,
  expires_at timestamptz not null,
  constraint used_challenges_pkey primary key (challenge_hash),
  constraint used_challenges__challenge_hash_length check (length(challenge_hash) = 32)
);
comment on table used_challenges is 'Tokens and challenges of sign-ins that were used and have not expired yet. Each is good for one use.';
create index used_challenges__expires_at on used_challenges (expires_at);

alter table users add column second_factor boolean not null default false;
comment on column users.second_factor is 'Whether the account has a confirmed authenticator app or a passkey. Triggers keep it.';
alter table teams add column requires_second_factor boolean not null default false;
comment on column teams.requires_second_factor is 'Whether members without a second factor have no access through the team.';

alter table sessions add column authenticated_at timestamptz;
comment on column sessions.authenticated_at is 'When its person last authenticated again, as sensitive changes require. Null: not since it was opened.';

create or replace function refresh_second_factor() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function project_access_on_second_factor() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function project_access_on_requirement() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function forget_factors_of_user() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger second_factor_by_totp after insert or update of user_id, confirmed_at or delete on totp_factors
  for each row execute function refresh_second_factor();
create trigger second_factor_by_passkey after insert or update of user_id or delete on passkeys
  for each row execute function refresh_second_factor();
create trigger project_access_by_second_factor after update of second_factor on users
  for each row when (old.second_factor <> new.second_factor) execute function project_access_on_second_factor();
create trigger project_access_by_requirement after update of requires_second_factor on teams
  for each row when (old.requires_second_factor <> new.requires_second_factor) execute function project_access_on_requirement();
create trigger factors_of_closed_account after update of status on users
  for each row when (new.status = 'deleted' and old.status <> 'deleted') execute function forget_factors_of_user();
