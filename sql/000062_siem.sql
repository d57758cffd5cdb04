-- Where the receivers of security events are in the chains of the audit log. Instances of the version before send nothing.

create table siem_sinks (
  sink text not null,
  holder text not null,
  lease_until timestamptz not null,
  started_at timestamptz not null default clock_timestamp(),
  constraint siem_sinks_pkey primary key (sink)
);
comment on table siem_sinks is 'Receivers of security events, by the kind of SIEM_URL. The instance with the lease sends.';
comment on column siem_sinks.holder is 'The instance that has the lease, or had it last.';
comment on column siem_sinks.started_at is 'Events from before it are not sent.';

create table siem_cursors (
  sink text not null,
  month timestamptz not null,
  sequence bigint not null,
  constraint siem_cursors_pkey primary key (sink, month),
  constraint siem_cursors__sink foreign key (sink) references siem_sinks (sink) on delete cascade deferrable initially deferred
);
comment on table siem_cursors is 'The last link of the chain of each month that a receiver has taken. A month without a row: none.';
comment on column siem_cursors.month is 'The first moment of the month in UTC, which names the chain.';
