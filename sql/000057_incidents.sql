-- Incidents: what the service or an operator found suspicious, until an operator closes it. Instances of the version before run
-- on this schema, and report none.

create table incidents (
  id uuid not null,
  kind text not null,
  severity text not null,
  subject_type text not null,
  subject_id text not null,
  count bigint not null default 1,
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  evidence jsonb not null default '[]',
  assignee_id uuid references users (id),
  opened_by uuid references users (id),
  note text not null default '',
  closed_at timestamptz,
  closed_by uuid references users (id),
  resolution text,
  constraint incidents_pkey primary key (id),
  constraint incidents__kind check (kind ~ '^[a-z_]+\.[a-z_]+$' and length(kind) <= 64),
  constraint incidents__severity check (severity in ('low', 'medium', 'high', 'critical')),
  constraint incidents__subject_type check (subject_type ~ '^[a-z_]+$' and length(subject_type) <= 32),
  constraint incidents__subject_id check (length(subject_id) <= 200),
  constraint incidents__count check (count > 0),
  constraint incidents__seen check (first_seen_at <= last_seen_at),
  constraint incidents__evidence check (jsonb_typeof(evidence) = 'array' and jsonb_array_length(evidence) <= 10),
  constraint incidents__note check (length(note) <= 2000),
  constraint incidents__resolution check (resolution in ('resolved', 'false_positive', 'ignored')),
  constraint incidents__closed check (
    (closed_at is null) = (resolution is null) and (closed_by is null or closed_at is not null))
);
comment on table incidents is 'What the service or an operator found suspicious, until an operator closes it. Those of one kind about one subject are one row while it is open.';
comment on column incidents.subject_id is 'The id of a user, session, key or team; an address or network; the name of a dependency.';
comment on column incidents.count is 'How often it was reported.';
comment on column incidents.evidence is 'What was seen: the first report and the latest ones. Emptied when the account of its subject is closed.';
comment on column incidents.opened_by is 'The operator who opened it. Null: the service did.';
comment on column incidents.note is 'What operators wrote about it.';

create unique index incidents__one_open on incidents (kind, subject_type, subject_id) where closed_at is null;
create index incidents__open on incidents (id) where closed_at is null;
create index incidents__kind_id on incidents (kind, id);
create index incidents__severity_id on incidents (severity, id);
create index incidents__subject on incidents (subject_type, subject_id, id);
create index incidents__assignee on incidents (assignee_id, id);
create index incidents__closed_at on incidents (closed_at);
