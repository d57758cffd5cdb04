-- A scheduled check corrects the counters of usage, and a table remembers which e-mail addresses have had their welcome credits.
-- The version before runs on it: it neither runs the check nor reads the table.
-- functions: 26f863bdb18aa86744d2631bc3a73672a13ca40cb9f84bfc29c08302e4175612

insert into access_checks (name) values ('account_usage') on conflict do nothing;
comment on table access_checks is 'When each check of computed rows (effective access, usage of accounts) is due, so that one instance runs it and the others skip it.';

create table welcomed_addresses (
  address_hash bytea not null,
  remembered_at timestamptz not null,
  constraint welcomed_addresses_pkey primary key (address_hash),
  constraint welcomed_addresses__address_hash_length check (length(address_hash) = 32)
);
comment on table welcomed_addresses is 'E-mail addresses that have had their welcome credits. Kept for 400 days, so that closing an account and registering again gives them once.';
comment on column welcomed_addresses.address_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';
comment on column welcomed_addresses.remembered_at is 'When the account got the credits, or was closed.';
create index welcomed_addresses__remembered_at on welcomed_addresses (remembered_at);
