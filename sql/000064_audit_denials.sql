-- Denied decisions are stored as the instances counted them, many in one row, and added up once their minute is over.
drop table audit_decisions;
create table audit_denials (
  minute timestamptz not null default date_trunc('minute', clock_timestamp()),
  id bigint generated always as identity,
  decisions integer not null,
  content text not null,
  constraint audit_denials_pkey primary key (minute, id)
);
comment on table audit_denials is 'Denied decisions of the current minute, as instances counted them. Later they become events.';
comment on column audit_denials.decisions is 'How many different decisions the row holds.';
comment on column audit_denials.content is 'JSON: who asked about whom, from where, and what was denied. Not compressed, because it is short-lived and mostly ids.';
alter table audit_denials alter column content set storage external;
