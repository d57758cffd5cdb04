-- functions: 3abfae69c8cf94c49819525e1f288202306687bfbc77caa00127153dce48771d
-- Figures that operators set for one account or one service key, instead of those of the policy table.
alter table users add column limits jsonb;
alter table users add constraint users__limits_are_figures check (
  jsonb_typeof(limits) = 'object'
  and not limits @? '$.* ? (@.type() != "number" || @ < 1 || @ > 1000000000000000)'
);
comment on column users.limits is
  'Budgets per minute and quotas of this account by name, as in src/limits/policy.ts; null: those of its plan.';

alter table service_keys add column limit_per_second integer;
alter table service_keys add constraint service_keys__limit_per_second_range check (
  limit_per_second between 1 and 1000000
);
comment on column service_keys.limit_per_second is 'Requests per second with this key; null: no limit.';
