-- People sign in with identity providers. The version before runs on it, and knows nothing of linked identities.

create table linked_identities (
  id uuid not null,
  user_id uuid not null,
  provider_id text not null,
  issuer text not null,
  subject text not null,
  email text,
  created_at timestamptz not null,
  last_used_at timestamptz not null,
  constraint linked_identities_pkey primary key (id),
  constraint linked_identities_user_id_fkey foreign key (user_id) references users (id) on delete cascade,
  constraint linked_identities__subject unique (issuer, subject),
  constraint linked_identities__lengths check (
    length(provider_id) <= 32 and length(issuer) <= 512 and length(subject) <= 255 and length(email) <= 254
  )
);
comment on table linked_identities is 'Identities at providers with which people sign in to their accounts. Deleted when the account is closed.';
comment on column linked_identities.provider_id is 'Name of the provider in the configuration when the identity was linked.';
comment on column linked_identities.issuer is 'Identifier of the provider. Issuer and subject together never mean another person.';
comment on column linked_identities.subject is 'Identifier of the person at the provider.';
comment on column linked_identities.email is 'Verified address at the provider when it was linked, for its owner to recognize. No account is found by it.';
create index linked_identities__user_id on linked_identities (user_id, id);

create table identity_provider_sign_ins (
  state_hash bytea not null,
  code_hash bytea,
  purpose text not null,
  user_id uuid,
  code_challenge text not null,
  encrypted_identity bytea,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  used_at timestamptz,
  constraint identity_provider_sign_ins_pkey primary key (state_hash),
  constraint identity_provider_sign_ins__code_hash unique (code_hash),
  constraint identity_provider_sign_ins__hash_lengths check (length(state_hash) = 32 and length(code_hash) = 32),
  constraint identity_provider_sign_ins__purpose check (purpose in ('sign_in', 'link', 'reauthenticate')),
  constraint identity_provider_sign_ins__user check ((purpose = 'sign_in') = (user_id is null))
);
comment on table identity_provider_sign_ins is 'People who returned from an identity provider. Each state returns once, and its code is used once. Kept for an hour.';
comment on column identity_provider_sign_ins.code_hash is 'SHA-256 of the code that the client got. Null while the provider is asked.';
comment on column identity_provider_sign_ins.user_id is 'The account that the code is for, unless it is for a sign-in. No foreign key: the row is short-lived.';
comment on column identity_provider_sign_ins.code_challenge is 'S256 of the verifier that the client keeps.';
comment on column identity_provider_sign_ins.encrypted_identity is 'The identity, encrypted under a key derived from SECRET. Null once the code was used.';
create index identity_provider_sign_ins__expires_at on identity_provider_sign_ins (expires_at);
