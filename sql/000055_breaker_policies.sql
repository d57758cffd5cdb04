-- What operators have set for the circuit breakers of all instances. An instance of the version before does not read it.
create table breaker_policies (
  dependency text primary key,
  mode text not null,
  failures integer not null,
  probe_after_ms integer not null,
  updated_at timestamptz not null default now(),
  constraint breaker_policies__mode check (mode in ('automatic', 'closed', 'open')),
  constraint breaker_policies__failures check (failures between 1 and 1000),
  constraint breaker_policies__probe_after_ms check (probe_after_ms between 100 and 600000)
);
comment on table breaker_policies is 'Policies of circuit breakers that operators have set. A dependency without a row has its default.';
comment on column breaker_policies.failures is 'Consecutive failures that open a breaker.';
comment on column breaker_policies.probe_after_ms is 'How long after a breaker opened, or a probe failed, one call is sent as a probe, in milliseconds.';
