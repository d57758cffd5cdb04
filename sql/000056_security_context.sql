-- Where sessions are opened, so that a request from elsewhere is noticed, and from which networks a service key may be used.
-- functions: 16466e007ae7814177492ada9e8668b855e107b2c50c26cc0fed49e5928d6f90

alter table sessions
  add column country text,
  add column earlier_countries text[],
  add column network_hash bytea,
  add column browser text,
  add column platform text,
  add column seen_country text,
  add column seen_at timestamptz;
comment on column sessions.country is 'Where the session was opened (ISO 3166-1). Null: not known.';
comment on column sessions.earlier_countries is
  'Where its person authenticated in the sessions that it replaced, the latest first. Null: in none.';
comment on column sessions.network_hash is 'Keyed hash of the network in which the session was opened. Null: not known.';
comment on column sessions.browser is 'The browser that opened the session, as its User-Agent names it. Null: not named.';
comment on column sessions.platform is 'The operating system of that browser. Null: not named.';
comment on column sessions.seen_country is 'Where the session was opened or last refreshed its tokens. Null: not known.';
comment on column sessions.seen_at is 'When that was. Null: the session was opened before this was recorded.';

alter table service_keys add column allowed_networks text[];
alter table service_keys add constraint service_keys__allowed_networks check (cardinality(allowed_networks) between 1 and 32);
comment on column service_keys.allowed_networks is
  'Addresses and ranges from which the key may be used, in CIDR notation. Null: from any.';
