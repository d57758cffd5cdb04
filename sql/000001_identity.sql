-- People, their sessions, and the keys that sign their access tokens.
-- Nothing here signs anybody in: passwords are argon2id, refresh tokens SHA-256, private keys sealed.

create table users (
  id uuid primary key,
  -- Lower case, NFC; null once the account is deleted, so that the address is free again.
  email text,
  display_name text not null,
  password_hash text,
  status text not null default 'active',
  role text not null default 'user',
  plan text not null default 'free',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint users__email unique (email),
  constraint users__email_length check (length(email) <= 254),
  constraint users__status check (status in ('active', 'suspended', 'deleted')),
  constraint users__role check (role in ('user', 'admin')),
  constraint users__plan check (plan in ('free', 'pro', 'enterprise')),
  constraint users__deleted_keeps_nothing check (
    (status = 'deleted') = (email is null) and (status = 'deleted') = (password_hash is null)
  )
);

-- A session is one family of refresh tokens on one device.
create table sessions (
  id uuid primary key,
  user_id uuid not null references users (id) on delete cascade,
  user_agent text not null,
  address text not null,
  created_at timestamptz not null,
  last_seen_at timestamptz not null,
  -- Ends without use (7 days), and at the latest (30 days).
  idle_expires_at timestamptz not null,
  expires_at timestamptz not null,
  ended_at timestamptz,
  end_reason text,
  constraint sessions__end_reason check (
    end_reason in ('logout', 'logout_all', 'ended_by_user', 'password_changed', 'refresh_reused', 'account_closed')
  ),
  constraint sessions__ended_has_reason check ((ended_at is null) = (end_reason is null))
);

create index sessions__live_by_user on sessions (user_id, id) where ended_at is null;
create index sessions__expires_at on sessions (expires_at);
create index sessions__ended_at on sessions (ended_at) where ended_at is not null;

-- Every refresh token ever issued to a session, so that a used one is known when it comes back.
create table refresh_tokens (
  token_hash bytea primary key,
  session_id uuid not null references sessions (id) on delete cascade,
  issued_at timestamptz not null,
  rotated_at timestamptz,
  constraint refresh_tokens__token_hash_length check (length(token_hash) = 32)
);

create index refresh_tokens__session_id on refresh_tokens (session_id);

create table signing_keys (
  kid text primary key,
  public_jwk jsonb not null,
  -- AES-256-GCM under a key derived from the configured secret, with the kid as associated data.
  sealed_private_key bytea not null,
  -- Signs from activates_at to retires_at; verifies from its making to expires_at.
  activates_at timestamptz not null,
  retires_at timestamptz not null,
  expires_at timestamptz not null,
  created_at timestamptz not null default now(),
  constraint signing_keys__order check (activates_at < retires_at and retires_at < expires_at)
);
