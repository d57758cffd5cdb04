-- The monthly partitions of the audit log. A row of a month without a partition goes into the default partition, so a missing one
-- fails no change.

-- Creates the missing partitions of this month (UTC) and of `ahead` months after it. Rows of such a month that are in the default
-- partition move into it. Returns how many partitions were created.
-- Locks: the default partition exclusively, and the partitioned table against other changes of its structure. Inserts into
-- other partitions go on. Gives up after 1 s of waiting for a lock.
create or replace function create_audit_partitions(ahead integer) returns integer
  language plpgsql set search_path from current as $$
declare
  parent text;
  step integer;
  month timestamptz;
  next_month timestamptz;
  name text;
  created integer := 0;
begin
  perform set_config('lock_timeout', '1s', true);
  foreach parent in array array['audit_events', 'audit_details', 'audit_links'] loop
    for step in 0..ahead loop
      month := (date_trunc('month', clock_timestamp() at time zone 'UTC') + make_interval(months => step)) at time zone 'UTC';
      next_month := ((month at time zone 'UTC') + interval '1 month') at time zone 'UTC';
      name := parent || to_char(month at time zone 'UTC', '_YYYY_MM');
      if to_regclass(name) is not null then continue; end if;
      execute format('lock table %I in access exclusive mode', parent || '_default');
      if to_regclass(name) is not null then continue; end if;
      execute format('create table %I (like %I including all)', name, parent);
      execute format('with moved as (delete from %I where at >= %L and at < %L returning *) insert into %I select * from moved',
        parent || '_default', month, next_month, name);
      execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, name, month, next_month);
      created := created + 1;
    end loop;
  end loop;
  return created;
end $$;
comment on function create_audit_partitions(integer) is
  'Creates the partitions of the audit log for this month and some months after it.';

-- Drops the partitions of the audit log whose months ended before `before`, and their rows in the default partitions. Their
-- signed heads stay, so that the chain of later months can still be verified.
-- Locks the partitioned tables exclusively, which holds up every change: it gives up after 0.3 s of waiting for a lock.
create or replace function drop_audit_partitions(before timestamptz) returns integer
  language plpgsql set search_path from current as $$
declare
  parent text;
  partition text;
  first_kept timestamptz := date_trunc('month', before at time zone 'UTC') at time zone 'UTC';
  dropped integer := 0;
begin
  perform set_config('lock_timeout', '300ms', true);
  foreach parent in array array['audit_details', 'audit_links', 'audit_events'] loop
    for partition in
      select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = to_regclass(parent) and c.relname ~ '_[0-9]{4}_[0-9]{2}$'
         and c.relname < parent || to_char(first_kept at time zone 'UTC', '_YYYY_MM')
       order by c.relname
    loop
      execute format('drop table %I', partition);
      dropped := dropped + 1;
    end loop;
    execute format('delete from %I where at < %L', parent || '_default', first_kept);
  end loop;
  delete from audit_checkpoints where month < first_kept;
  update audit_heads set dropped_at = clock_timestamp() where month < first_kept and dropped_at is null;
  return dropped;
end $$;
comment on function drop_audit_partitions(timestamptz) is
  'Drops the months of the audit log that ended before a moment, but for their signed heads.';
