-- Which database this is: instances compare it to find out whether they are connected to the same one.

-- Differs for every other server, database, restored copy and promoted standby, and after every restart of the server:
-- system identifier, object id of the database, timeline of the WAL file being written, start of the server; in hexadecimal,
-- with hyphens between them. A part that a managed server does not allow the role to read is 0. Needs no superuser.
-- Reads one small file of the server. Locks nothing and assigns no transaction id.
create or replace function database_identity() returns text language plpgsql set search_path from current as $$
declare
  system_id bigint := 0;
  timeline text := '0';
begin
  begin
    system_id := (select system_identifier from pg_control_system());
  exception when insufficient_privilege or undefined_function or feature_not_supported then null;
  end;
  begin
    if not pg_is_in_recovery() then timeline := ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0'); end if;
  exception when insufficient_privilege or undefined_function or feature_not_supported then null;
  end;
  return concat_ws('-', to_hex(system_id), to_hex((select oid::bigint from pg_database where datname = current_database())),
    lower(timeline), to_hex((extract(epoch from pg_postmaster_start_time()) * 1e6)::bigint));
end $$;
comment on function database_identity() is
  'Identifies this database of this run of the server: system identifier, database, timeline and start of the server. The same over any route; another one after a restart, a restore or a failover.';
