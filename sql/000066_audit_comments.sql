-- Comments on columns of the audit log, and of a function (feature-flags.sql).
-- functions: aa82c3cc551c9473c8f0095e6a7dc7c5f038698e562e102259e2970087027dfb

comment on column audit_events.details_hash is 'SHA-256 of salt and details of the row in audit_details. Null for an event without details.';
comment on column audit_denials.content is 'JSON: who asked about whom, from where, and what was denied. Stored without compression: it consists of ids and is deleted after a minute.';
