-- Whether the e-mail address of an account is verified, and welcome credits that wait for it. The version before runs on it: it
-- gives welcome credits at registration.

alter table users add column email_verified_at timestamptz;
comment on column users.email_verified_at is 'When the e-mail address was verified. Null: it is not.';

create table pending_welcomes (
  user_id uuid not null,
  network text not null,
  registered_at timestamptz not null default clock_timestamp(),
  constraint pending_welcomes_pkey primary key (user_id),
  constraint pending_welcomes_user_id_fkey foreign key (user_id) references users (id) on delete cascade
);
comment on table pending_welcomes is 'New accounts that get their welcome credits once the e-mail address is verified.';
comment on column pending_welcomes.network is 'Where the account was registered from: an IPv4 address, or the /64 network of an IPv6 address.';

create table welcome_grants (
  network text not null,
  day date not null,
  accounts integer not null,
  constraint welcome_grants_pkey primary key (network, day),
  constraint welcome_grants__accounts check (accounts > 0)
);
comment on table welcome_grants is 'How many accounts of a network got welcome credits on a day (UTC). Kept for two days.';
