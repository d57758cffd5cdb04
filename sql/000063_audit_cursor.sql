-- The cursor of the audit log names the last linked event, so that each run reads the rows after it from an index.

alter table audit_cursor add column id uuid not null default '00000000-0000-0000-0000-000000000000';
comment on table audit_cursor is 'Every event up to this one, in the order of transaction and id, is linked. One row.';
drop index audit_events__xid;
create index audit_events__xid on audit_events (xid, id);
