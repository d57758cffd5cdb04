-- The schema that the migrations and the function files result in, read from the catalog. It is for review: do not run or
-- edit it. A test compares it; UPDATE_SCHEMA=1 bun test test/sql/schema.test.ts writes it. Partitions created at run time
-- are left out.

create sequence access_event_ordinals as bigint;

CREATE OR REPLACE FUNCTION public.accessible_generations(person uuid, wanted integer, to_owner boolean, to_anyone boolean, before uuid, size integer)
 RETURNS uuid[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashagg TO 'off'
AS $function$
declare
  page uuid[];
  last uuid;
  below uuid;
  looking boolean := false;
begin
  -- Ownership decides alone: the owner has no access through the project, which only an action not given to owners shows.
  if not to_owner then return accessible_generations_of_others(person, wanted, before, size); end if;
  loop
    with own as materialized (
      select id from generations where owner_id = person and id < before order by id desc limit size
    ), opened as materialized (
      select l.id from public_generations l
       where to_anyone and l.id < before
         and (not looking or (select p.id from projects p where p.id = l.project_id and p.visibility = 'public') is not null)
       order by l.id desc limit size
    ), shared as materialized (
      select project_id as id from project_access where user_id = person and actions & wanted <> 0
    ), bounds as materialized (
      select greatest((select id from own offset size - 1 limit 1), (select id from opened offset size - 1 limit 1),
                      lowest_id()) as below,
             least(size, 2 + 2 * size / greatest((select count(*)::integer from shared), 1)) as part
    ), heads as materialized (
      select array(
               select g.id from generations g
                where g.project_id = s.id and g.id < before and g.id > (select b.below from bounds b)
                order by g.id desc limit (select b.part from bounds b)) as ids
        from shared s
    )
    select array(
             select distinct id
               from (select id from own union all select id from opened union all select unnest(ids) from heads) found
              order by id desc limit size),
           (select ids[(select b.part from bounds b)] from heads
             where ids[(select b.part from bounds b)] is not null order by 1 desc limit 1)
      into page, last from users where id = person and status = 'active';
    if page is null then return '{}'; end if;
    below := coalesce(page[size], lowest_id());
    if last > below then
      page := array(
        select distinct id
          from (select unnest(page) as id
                union all
                select g.id from project_access a
                 cross join lateral (
                   select id from generations
                    where project_id = a.project_id and id < before and id > below order by id desc limit size) g
                 where a.user_id = person and a.actions & wanted <> 0) found
         order by id desc limit size);
      below := coalesce(page[size], lowest_id());
    end if;
    exit when looking or not to_anyone;
    exit when not exists (
      select from public_generations l
       where l.id < before and l.id >= below
         and (select p.id from projects p where p.id = l.project_id and p.visibility = 'public') is null);
    looking := true;
  end loop;
  return page;
end $function$;
comment on function accessible_generations(person uuid, wanted integer, to_owner boolean, to_anyone boolean, before uuid, size integer) is 'A page of the generations on which an active user may do the wanted actions. to_owner: their owner may do them, to_anyone: any user may do them in a public project.';

CREATE OR REPLACE FUNCTION public.accessible_generations_of_others(person uuid, wanted integer, before uuid, size integer)
 RETURNS uuid[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashagg TO 'off'
AS $function$
declare
  page uuid[];
  last uuid;
  below uuid;
begin
  with shared as materialized (
    select project_id as id from project_access where user_id = person and actions & wanted <> 0
  ), bounds as materialized (
    select least(size, 2 + 2 * size / greatest((select count(*)::integer from shared), 1)) as part
  ), heads as materialized (
    select array(
             select g.id from generations g
              where g.project_id = s.id and g.id < before and g.owner_id <> person
              order by g.id desc limit (select b.part from bounds b)) as ids
      from shared s
  )
  select array(select id from (select unnest(ids) as id from heads) found order by id desc limit size),
         (select ids[(select b.part from bounds b)] from heads
           where ids[(select b.part from bounds b)] is not null order by 1 desc limit 1)
    into page, last from users where id = person and status = 'active';
  if page is null then return '{}'; end if;
  below := coalesce(page[size], lowest_id());
  if last > below then
    page := array(
      select g.id from project_access a
       cross join lateral (
         select id from generations
          where project_id = a.project_id and id < before and id > below and owner_id <> person
          order by id desc limit size) g
       where a.user_id = person and a.actions & wanted <> 0
       order by g.id desc limit size);
    if below > lowest_id() then page := array(select unnest(page || below) id order by id desc limit size); end if;
  end if;
  return page;
end $function$;
comment on function accessible_generations_of_others(person uuid, wanted integer, before uuid, size integer) is 'As accessible_generations, for actions that the owner of a generation may not do: those of others in shared projects.';

CREATE OR REPLACE FUNCTION public.accessible_projects(person uuid, wanted integer, to_anyone boolean, before uuid, size integer)
 RETURNS uuid[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
declare
  page uuid[];
  opened uuid[];
begin
  perform from users where id = person and status = 'active';
  if not found then return '{}'; end if;
  page := array(
    select project_id from project_access
     where user_id = person and project_id < before and actions & wanted <> 0 order by project_id desc limit size);
  if not to_anyone then return page; end if;
  opened := array(
    select id from projects
     where visibility = 'public' and id < before and id > coalesce(page[size], lowest_id())
     order by id desc limit size);
  return case when opened = '{}' then page else merge_page(page || opened, size) end;
end $function$;
comment on function accessible_projects(person uuid, wanted integer, to_anyone boolean, before uuid, size integer) is 'A page of the projects on which an active user may do the wanted actions. to_anyone: any user may do them on a public project.';

CREATE OR REPLACE FUNCTION public.add_media_bytes(owners uuid[], objects text[], sign integer)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform set_config('velro.counts_usage', 'on', true);
  insert into account_usage as u (user_id, media_bytes)
  select m.owner_id, sign * sum(o.bytes)
    from unnest(owners, objects) as m (owner_id, sha256) join media_objects o on o.sha256 = m.sha256
   group by m.owner_id order by m.owner_id
      on conflict (user_id) do update set media_bytes = u.media_bytes + excluded.media_bytes;
  perform set_config('velro.counts_usage', '', true);
end $function$;
comment on function add_media_bytes(owners uuid[], objects text[], sign integer) is 'Adds the bytes of objects to the usage of their owners, or takes them away.';

CREATE OR REPLACE FUNCTION public.add_projects(gaining uuid[], losing uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform set_config('velro.counts_usage', 'on', true);
  insert into account_usage as u (user_id, projects)
  select owner_id, sum(change)
    from (select unnest(gaining) as owner_id, 1 as change union all select unnest(losing), -1) changes
   where owner_id is not null group by owner_id having sum(change) <> 0 order by owner_id
      on conflict (user_id) do update set projects = u.projects + excluded.projects;
  perform set_config('velro.counts_usage', '', true);
end $function$;
comment on function add_projects(gaining uuid[], losing uuid[]) is 'Adds one project to the usage of each gaining owner, and takes one away from each losing owner.';

CREATE OR REPLACE FUNCTION public.apply_blocks()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform from users where id in (select user_id from changed) order by id for no key update;
  update users u set blocked = not u.blocked
   where u.id in (select user_id from changed) and u.blocked <> exists (select from blocks b where b.user_id = u.id);
  perform pg_advisory_xact_lock(hashtextextended(key_id::text, service_key_lock_seed()))
     from (select distinct key_id from changed where key_id is not null order by key_id) keys;
  update service_keys k set blocked = not k.blocked
   where k.id in (select key_id from changed) and k.blocked <> exists (select from blocks b where b.key_id = k.id);
  if exists (select from changed where network is not null) then
    perform from restrictions for no key update;
    update restrictions
       set networks = (select coalesce(jsonb_agg(distinct network::text), '[]') from blocks where network is not null);
  end if;
  return null;
end $function$;
comment on function apply_blocks() is 'Keeps users.blocked, service_keys.blocked and restrictions.networks when blocks are added or removed.';

CREATE OR REPLACE FUNCTION public.audit_denied_ids(after json)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (json_typeof((after -> 'denials'::text)) = 'array'::text) THEN ARRAY(SELECT (denial.value ->> 'id'::text) FROM json_array_elements((audit_denied_ids.after -> 'denials'::text)) denial(value)) ELSE NULL::text[] END;
comment on function audit_denied_ids(after json) is 'The ids of the resources in an event that several denials share. An index of audit_events is made of them.';

CREATE OR REPLACE FUNCTION public.check_restored_entries()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if exists (
    select from (
      select balance_after, sum(amount) over (partition by user_id order by id) as total
        from credit_ledger where user_id in (select user_id from added)
    ) entries where balance_after <> total
  ) or exists (
    select from added a
     where kind in ('settle', 'refund') and not exists (
       select from credit_ledger r
        where r.generation_id = a.generation_id and r.kind = 'reserve' and r.user_id = a.user_id
          and (a.kind = 'settle' or a.amount = -r.amount))
  ) then
    raise exception 'entries with a given balance_after must have that sum, and their reservations'
      using errcode = 'integrity_constraint_violation';
  end if;
  update credit_balances b set balance = e.balance_after
    from (select distinct on (user_id) user_id, balance_after
            from credit_ledger where user_id in (select user_id from added) order by user_id, id desc) e
   where b.user_id = e.user_id;
  return null;
end $function$;
comment on function check_restored_entries() is 'Checks entries from a dump, which say their balance_after, and sets the balances of their users.';

CREATE OR REPLACE FUNCTION public.confirm_access_events(ids bigint[], own_epoch text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  removed text;
begin
  if own_epoch <> '-' then
    perform from redis_registry r where r.epoch = own_epoch and r.database = redis_database() for share skip locked;
    if not found then return; end if;
  end if;
  perform set_config('velro.confirming', 'on', true), set_config('synchronous_commit', 'off', true);
  with gone as (delete from access_events e where e.id = any (ids) and e.position is not null returning e.id)
  select string_agg(id::text, ' ') into removed from gone;
  perform set_config('velro.confirming', '', true);
  if removed is not null then perform pg_notify('velro', format('confirmed %s %s', own_epoch, removed)); end if;
end $function$;
comment on function confirm_access_events(ids bigint[], own_epoch text) is 'Removes events whose keys are deleted from the shared Redis server, and notifies every instance.';

CREATE OR REPLACE FUNCTION public.count_media_bytes()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if tg_op = 'TRUNCATE' then
    update account_usage set media_bytes = 0 where media_bytes <> 0;
    return null;
  end if;
  if tg_op = 'INSERT' then
    perform add_media_bytes(array(select owner_id from after), array(select sha256 from after), 1);
  elsif tg_op = 'DELETE' then
    perform add_media_bytes(array(select owner_id from before), array(select sha256 from before), -1);
  elsif exists (
    select from before b full join after a using (id) where (a.owner_id, a.sha256) is distinct from (b.owner_id, b.sha256)
  ) then
    perform add_media_bytes(array(select owner_id from after), array(select sha256 from after), 1);
    perform add_media_bytes(array(select owner_id from before), array(select sha256 from before), -1);
  end if;
  return null;
end $function$;
comment on function count_media_bytes() is 'Adds the bytes of new media to the usage of their owners, and takes those of deleted media away.';

CREATE OR REPLACE FUNCTION public.count_projects()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if tg_op = 'TRUNCATE' then
    update account_usage set projects = 0 where projects <> 0;
  elsif tg_op = 'INSERT' then
    perform add_projects(array(select owner_id from after), '{}');
  elsif tg_op = 'DELETE' then
    perform add_projects('{}', array(select owner_id from before));
  else
    perform add_projects(
      array(select a.owner_id from before b full join after a using (id) where a.owner_id is distinct from b.owner_id),
      array(select b.owner_id from before b full join after a using (id) where a.owner_id is distinct from b.owner_id));
  end if;
  return null;
end $function$;
comment on function count_projects() is 'Counts the projects of their owners in their usage.';

CREATE OR REPLACE FUNCTION public.create_audit_partitions(ahead integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
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
end $function$;
comment on function create_audit_partitions(ahead integer) is 'Creates the partitions of the audit log for this month and some months after it.';

CREATE OR REPLACE FUNCTION public.database_identity()
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
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
end $function$;
comment on function database_identity() is 'Identifies this database of this run of the server: system identifier, database, timeline and start of the server. The same over any route; another one after a restart, a restore or a failover.';

CREATE OR REPLACE FUNCTION public.drop_audit_partitions(before timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
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
end $function$;
comment on function drop_audit_partitions(before timestamp with time zone) is 'Drops the months of the audit log that ended before a moment, but for their signed heads.';

CREATE OR REPLACE FUNCTION public.event_payload(id bigint, writer text, event_position bigint, keys text[])
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO '$user', 'public'
AS $function$
  select rtrim(format('event %s %s * 2 %s %s', id, coalesce(writer, '-'), event_position,
    case when length(list) > max_notified_keys_length() then '*' else list end))
    from coalesce(array_to_string(keys, ' '), '*') list
$function$;
comment on function event_payload(id bigint, writer text, event_position bigint, keys text[]) is 'The notification of an invalidation event.';

CREATE OR REPLACE FUNCTION public.forget_factors_of_user()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  delete from recovery_codes where user_id = new.id;
  delete from totp_factors where user_id = new.id;
  delete from passkeys where user_id = new.id;
  return null;
end $function$;
comment on function forget_factors_of_user() is 'Deletes the second factors of an account that was closed.';

CREATE OR REPLACE FUNCTION public.give_turn()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
AS $function$
declare
  under_way bigint;
  waiting bigint;
begin
  if new.owner_id is null then
    select owner_id into new.owner_id from generations where id = new.generation_id;
  end if;
  if new.turn is null then
    perform pg_advisory_xact_lock(hashtextextended(new.owner_id::text, usage_lock_seed()));
    select turn into under_way from generation_jobs
     where priority = new.priority and worker is not null order by priority desc, turn desc limit 1;
    select turn into waiting from generation_jobs
     where priority = new.priority and worker is null and run_after <= clock_timestamp() order by priority, turn limit 1;
    new.turn := coalesce(greatest(waiting, coalesce(under_way, waiting) + 1, (
      select turn + 1 from generation_jobs where owner_id = new.owner_id and priority = new.priority
       order by owner_id desc, priority desc, turn desc limit 1)), 0);
  end if;
  return new;
end $function$;
comment on function give_turn() is 'Gives a new job the turn after the last unfinished one of its owner, and none before the next turn of its priority.';

CREATE OR REPLACE FUNCTION public.heat_left(hits double precision, last_at timestamp with time zone)
 RETURNS double precision
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (hits * power((0.5)::double precision, (LEAST(GREATEST((EXTRACT(epoch FROM (now() - last_at)) / (3600)::numeric), (0)::numeric), (60)::numeric))::double precision));
comment on function heat_left(hits double precision, last_at timestamp with time zone) is 'Decayed frequency: half of the hits remain after each hour.';

CREATE OR REPLACE FUNCTION public.keep_credit_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if current_setting('velro.restored_entries', true) = 'on' then
    return null;
  end if;
  update credit_balances set balance = new.balance_after
   where user_id = new.user_id and balance = new.balance_after - new.amount;
  if not found then
    raise exception 'one statement may insert only one ledger entry for each user'
      using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $function$;
comment on function keep_credit_balance() is 'Updates the balance after an entry was inserted; refuses two entries of one user in one statement.';

CREATE OR REPLACE FUNCTION public.lacks_required_factor(team uuid, person uuid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT (EXISTS ( SELECT
            FROM teams t
           WHERE ((t.id = lacks_required_factor.team) AND t.requires_second_factor AND (NOT ( SELECT u.second_factor
                    FROM users u
                   WHERE (u.id = lacks_required_factor.person)))))) AS "exists";
END;
comment on function lacks_required_factor(team uuid, person uuid) is 'Whether a team requires a second factor that this user does not have.';

CREATE OR REPLACE FUNCTION public.list_changed_generation()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform share_project_access(array_remove(array[old.project_id, new.project_id], null));
  delete from public_generations where id = old.id;
  if tg_op = 'UPDATE' then
    insert into public_generations (id, project_id)
    select new.id, p.id from projects p where p.id = new.project_id and p.visibility = 'public'
        on conflict (id) do update set project_id = excluded.project_id;
  end if;
  return null;
end $function$;
comment on function list_changed_generation() is 'Keeps public_generations when a generation is moved to another project or deleted.';

CREATE OR REPLACE FUNCTION public.list_generations_of_project()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform require_read_committed();
  perform lock_project_access(new.id);
  if new.visibility = 'public' then
    insert into public_generations (id, project_id)
    select g.id, g.project_id from generations g where g.project_id = new.id
        on conflict (id) do update set project_id = excluded.project_id;
  else
    delete from public_generations where id in (select g.id from generations g where g.project_id = new.id);
  end if;
  return null;
end $function$;
comment on function list_generations_of_project() is 'Adds the generations of a project that became public to public_generations, or removes them.';

CREATE OR REPLACE FUNCTION public.list_new_generations()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform share_project_access(array(select distinct project_id from added where project_id is not null));
  insert into public_generations (id, project_id)
  select a.id, a.project_id from added a join projects p on p.id = a.project_id and p.visibility = 'public'
      on conflict (id) do update set project_id = excluded.project_id;
  return null;
end $function$;
comment on function list_new_generations() is 'Adds new generations of public projects to public_generations.';

CREATE OR REPLACE FUNCTION public.lock_access_of_users(changed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended(id::text, user_access_lock_seed()))
    from (select distinct id from unnest(changed) id where id is not null order by id) ids;
end $function$;
comment on function lock_access_of_users(changed uuid[]) is 'Locks the effective access of users whose memberships change. Lock the teams first.';

CREATE OR REPLACE FUNCTION public.lock_access_to_projects(changed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform lock_project_access(id) from (select distinct id from unnest(changed) id order by id) ids;
end $function$;
comment on function lock_access_to_projects(changed uuid[]) is 'As lock_project_access, for several projects. Lock their rows first.';

CREATE OR REPLACE FUNCTION public.lock_credit_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  last_id uuid;
  last_ms bigint;
  last_balance bigint;
begin
  if new.balance_after is null and new.kind in ('settle', 'refund') and not exists (
    select from credit_ledger r
     where r.generation_id = new.generation_id and r.kind = 'reserve' and r.user_id = new.user_id
       and (new.kind = 'settle' or new.amount = -r.amount)
  ) then
    raise exception 'a % needs a reservation of the same user and amount', new.kind
      using errcode = 'integrity_constraint_violation';
  end if;
  insert into credit_balances (user_id, balance) values (new.user_id, 0) on conflict do nothing;
  select balance into last_balance from credit_balances where user_id = new.user_id for update;
  if new.balance_after is not null then
    perform set_config('velro.restored_entries', 'on', true);
    return new;
  end if;
  new.balance_after := last_balance + new.amount;
  new.created_at := clock_timestamp();
  -- A separate statement: its snapshot includes commits made while this one waited for the lock.
  select id into last_id from credit_ledger where user_id = new.user_id order by id desc limit 1;
  if new.id <= last_id then
    -- The first 48 bits of a version 7 id are milliseconds. Version, variant and random bits of the new id stay.
    last_ms := ('x' || left(replace(last_id::text, '-', ''), 12))::bit(48)::bigint;
    new.id := (lpad(to_hex(last_ms + 1), 12, '0') || right(replace(new.id::text, '-', ''), 20))::uuid;
  end if;
  return new;
end $function$;
comment on function lock_credit_balance() is 'Locks the balance before an entry is inserted, computes balance_after, and keeps the ids of a user in order.';

CREATE OR REPLACE FUNCTION public.lock_generation_decision(person uuid, session uuid, shared_projects uuid[], shared_generations uuid[], shared_media uuid[], changed_generations uuid[], changed_media uuid[])
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  written uuid[];
  shared uuid[];
  held uuid[];
begin
  if not lock_signed_in(person, session) then return false; end if;
  -- A write that names only projects, as most orders do, needs neither the rows of generations nor the block.
  if changed_generations = '{}' and changed_media = '{}' and shared_generations = '{}' and shared_media = '{}' then
    perform share_project_access(shared_projects);
    perform pg_advisory_xact_lock_shared(hashtextextended(person::text, user_access_lock_seed()));
    return true;
  end if;
  written := changed_generations || array(
    select generation_id from media where id = any (changed_media) and generation_id is not null);
  shared := shared_generations || array(
    select generation_id from media where id = any (shared_media) and generation_id is not null);
  perform from users
    where id in (select owner_id from generations where id = any (written)) order by id for key share;
  loop
    begin
      held := shared_projects || array(
        select project_id from generations where id = any (written || shared) and project_id is not null);
      perform share_project_access(held);
      perform pg_advisory_xact_lock_shared(hashtextextended(person::text, user_access_lock_seed()));
      perform from generations where id = any (written) order by id for no key update;
      perform from generations where id = any (shared) order by id for share;
      perform from generations
        where id = any (written || shared) and project_id is not null and project_id <> all (held);
      if not found then return true; end if;
      raise exception 'a generation was moved' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $function$;
comment on function lock_generation_decision(person uuid, session uuid, shared_projects uuid[], shared_generations uuid[], shared_media uuid[], changed_generations uuid[], changed_media uuid[]) is 'Locks what decides whether a user may write to generations, media or into projects: account and session for share, the access to the projects and that of the user; generations and those of media for share, or for no key update where they are changed. False: not signed in.';

CREATE OR REPLACE FUNCTION public.lock_project_access(changed uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended('project ' || changed, user_access_lock_seed()));
end $function$;
comment on function lock_project_access(changed uuid) is 'Waits for the writes that were decided by the access to a project, and keeps out further ones. Lock the project first.';

CREATE OR REPLACE FUNCTION public.lock_project_decision(person uuid, session uuid, project uuid, granted uuid[])
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if not lock_signed_in(person, session) then return false; end if;
  perform from projects where id = project for no key update;
  perform lock_project_access(project);
  perform lock_teams_of_project(
    project, array(select team_id from team_members where user_id = person and team_id = any (granted)));
  return true;
end $function$;
comment on function lock_project_decision(person uuid, session uuid, project uuid, granted uuid[]) is 'Locks what decides whether a user may change a project: account, session, project, its teams, and those of the given teams that the user is a member of. False: not signed in.';

CREATE OR REPLACE FUNCTION public.lock_projects_and_teams(changed uuid[], others uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform from projects where id = any (changed) order by id for no key update;
  perform lock_access_to_projects(changed);
  perform from teams
    where id in (select team_id from project_grants where project_id = any (changed) union all select unnest(others))
    order by id for no key update;
end $function$;
comment on function lock_projects_and_teams(changed uuid[], others uuid[]) is 'Locks projects, the access to them, all teams with a grant on them and the other teams given, in the lock order.';

CREATE OR REPLACE FUNCTION public.lock_signed_in(person uuid, session uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform from users where id = person and status = 'active' and not blocked for share;
  if not found then return false; end if;
  perform from sessions where id = session and user_id = person and ended_at is null for share;
  if found then return true; end if;
  perform pg_advisory_xact_lock_shared(hashtextextended(session::text, service_key_lock_seed()));
  perform from service_keys
    where id = session and revoked_at is null and not blocked
      and (allowed_networks is null
           or nullif(current_setting('velro.client_address', true), '')::inet <<= any (allowed_networks::inet[]));
  return found;
end $function$;
comment on function lock_signed_in(person uuid, session uuid) is 'Locks an active account and its live session for share, or the key of the service that acts for the account. False, where one of the two has ended or is blocked, or the key may not be used from the address in velro.client_address.';

CREATE OR REPLACE FUNCTION public.lock_team_removal(team uuid, person uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  granted uuid[];
begin
  perform from team_members where team_id = team and user_id = person and role = 'owner';
  if not found then return; end if;
  loop
    begin
      granted := array(select project_id from project_grants where team_id = team);
      perform lock_projects_and_teams(granted, array[team]);
      perform from project_grants where team_id = team and project_id <> all (granted);
      if not found then return; end if;
      raise exception 'another project was granted' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $function$;
comment on function lock_team_removal(team uuid, person uuid) is 'Locks a team that its owner removes, with the projects granted to it and their teams.';

CREATE OR REPLACE FUNCTION public.lock_teams_of_member(person uuid, leaving boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  granted uuid[];
begin
  loop
    begin
      granted := case when leaving then projects_of_only_member(person) else '{}' end;
      perform lock_projects_and_teams(granted, array(select team_id from team_members where user_id = person));
      if not leaving or projects_of_only_member(person) <@ granted then return; end if;
      raise exception 'another project was granted' using errcode = 'VL001';
    exception when sqlstate 'VL001' then null;
    end;
  end loop;
end $function$;
comment on function lock_teams_of_member(person uuid, leaving boolean) is 'Locks for no key update all teams of a user and, if leaving, the projects of teams without another member.';

CREATE OR REPLACE FUNCTION public.lock_teams_of_project(locked uuid, others uuid[] DEFAULT '{}'::uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform from teams
    where id in (select team_id from project_grants where project_id = locked union all select unnest(others))
    order by id for no key update;
end $function$;
comment on function lock_teams_of_project(locked uuid, others uuid[]) is 'Locks for no key update all teams with a grant on a locked project, and the other teams given.';

CREATE OR REPLACE FUNCTION public.lock_usage(person uuid, quotas text[])
 RETURNS TABLE(quota text, used bigint)
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended(person::text, usage_lock_seed()));
  foreach quota in array quotas loop
    used := usage_of(person, quota);
    return next;
  end loop;
end $function$;
comment on function lock_usage(person uuid, quotas text[]) is 'Locks what an account holds until the transaction ends, so that quotas hold, and returns how much of each quota it uses.';

CREATE OR REPLACE FUNCTION public.lowest_id()
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN '00000000-0000-0000-0000-000000000000'::uuid;
comment on function lowest_id() is 'Below every id.';

CREATE OR REPLACE FUNCTION public.max_hottest_pairs()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN 5000;
comment on function max_hottest_pairs() is 'How many rows the materialized view hottest_pairs has at most.';

CREATE OR REPLACE FUNCTION public.max_keys_per_event()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN 20000;
comment on function max_keys_per_event() is 'An event with more invalidation keys than this is widened: first to one key for all grants of a user, then to * (everything).';

CREATE OR REPLACE FUNCTION public.max_notified_keys_length()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN 7800;
comment on function max_notified_keys_length() is 'Longest list of invalidation keys sent inside a notification, in characters. Postgres refuses payloads of 8,000 bytes; the rest is for the event id and the instance.';

CREATE OR REPLACE FUNCTION public.max_setting_length()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN 8192;
comment on function max_setting_length() is 'Length in characters from which recorded keys go to the next transaction setting, because appending copies the whole setting.';

CREATE OR REPLACE FUNCTION public.max_users_per_webhook_event()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN 100;
comment on function max_users_per_webhook_event() is 'How many users one access.changed event names at most; the change of more is several events.';

CREATE OR REPLACE FUNCTION public.may_choose_redis(choice redis_registry, own_server text, identity text, outdated_epoch text)
 RETURNS boolean
 LANGUAGE sql
 SET search_path TO '$user', 'public'
AS $function$
  select choice.epoch is null or choice.database <> identity or coalesce(choice.epoch = outdated_epoch, false)
      or choice.server <> own_server
         and (choice.server = '-' or not exists (select from redis_registrations r where r.server = choice.server))
$function$;
comment on function may_choose_redis(choice redis_registry, own_server text, identity text, outdated_epoch text) is 'Whether an instance may replace the choice of the shared Redis server by its own server.';

CREATE OR REPLACE FUNCTION public.mend_project_access(mended uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform require_read_committed();
  perform from projects where id = any (mended) order by id for no key update;
  perform from teams
    where id in (select team_id from project_grants where project_id = any (mended)) order by id for no key update;
  perform refresh_project_access(mended);
end $function$;
comment on function mend_project_access(mended uuid[]) is 'Recomputes project_access for the given projects, under their locks.';

CREATE OR REPLACE FUNCTION public.mend_public_generations(mended uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform share_project_access(array(
    select project_id from generations where id = any (mended) and project_id is not null));
  perform set_config('velro.computes_access', 'on', true);
  delete from public_generations where id = any (mended);
  insert into public_generations (id, project_id)
  select e.id, e.project_id from public_generations_expected e where e.id = any (mended)
      on conflict (id) do update set project_id = excluded.project_id;
  perform set_config('velro.computes_access', '', true);
end $function$;
comment on function mend_public_generations(mended uuid[]) is 'Recomputes public_generations for the given generations.';

CREATE OR REPLACE FUNCTION public.merge_page(ids uuid[], size integer)
 RETURNS uuid[]
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO '$user', 'public'
AS $function$
begin
  return array(select distinct id from unnest(ids) id order by id desc limit size);
end $function$;
comment on function merge_page(ids uuid[], size integer) is 'The newest of these ids, each once, in descending order.';

CREATE OR REPLACE FUNCTION public.mode_for_registration()
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pg_advisory_xact_lock_shared(mode_lock_key());
  return (select mode from restrictions);
end $function$;
comment on function mode_for_registration() is 'The mode, which does not change until the transaction ends. Null, where it is unknown.';

CREATE OR REPLACE FUNCTION public.mode_lock_key()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN '7301950230'::bigint;
comment on function mode_lock_key() is 'Key of the advisory lock under which the mode changes. Registrations hold it shared.';

CREATE OR REPLACE FUNCTION public.next_event_position()
 RETURNS bigint
 LANGUAGE sql
BEGIN ATOMIC
 INSERT INTO event_positions AS p (only_row, "position")
   VALUES (true, 1) ON CONFLICT(only_row) DO UPDATE SET "position" = (p."position" + 1)
   RETURNING p."position";
END;
comment on function next_event_position() is 'Increments the position of invalidation events. Locks its row until the commit; call it at the commit only.';

CREATE OR REPLACE FUNCTION public.note_changed_feature_flags()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched(concat('feature_flags:', lowest_id(), e'\n'));
  return null;
end $function$;
comment on function note_changed_feature_flags() is 'Records the key of all feature flags.';

CREATE OR REPLACE FUNCTION public.note_changed_flags()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((select string_agg(concat('flag:', name, '=', enabled, e'\n'), '') from after));
  return null;
end $function$;
comment on function note_changed_flags() is 'Records flag:<name>=<enabled> for each inserted or updated flag; the key carries the new value.';

CREATE OR REPLACE FUNCTION public.note_changed_generations()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('generation:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.project_id, a.status)
           is distinct from (b.owner_id, b.project_id, b.status)));
  return null;
end $function$;
comment on function note_changed_generations() is 'Records generation:<id> for each generation whose owner, project or status changed.';

CREATE OR REPLACE FUNCTION public.note_changed_media()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('media:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.generation_id, a.sha256)
           is distinct from (b.owner_id, b.generation_id, b.sha256)));
  return null;
end $function$;
comment on function note_changed_media() is 'Records media:<id> for each media row whose owner, generation or object changed.';

CREATE OR REPLACE FUNCTION public.note_changed_memberships()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(distinct concat('memberships:', user_id, e'\n'), '') from changed));
  return null;
end $function$;
comment on function note_changed_memberships() is 'Records memberships:<user> for each user who was added to a team or removed from one.';

CREATE OR REPLACE FUNCTION public.note_changed_profiles()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('profile:', id, e'\n'), '') from before b full join after a using (id)
     where (a.email, a.display_name, a.role, a.plan, a.status, a.created_at, a.email_verified_at is null, a.second_factor,
            a.updated_at)
           is distinct from
           (b.email, b.display_name, b.role, b.plan, b.status, b.created_at, b.email_verified_at is null, b.second_factor,
            b.updated_at)));
  return null;
end $function$;
comment on function note_changed_profiles() is 'Records profile:<id> for each account of which something changed that its owner is shown.';

CREATE OR REPLACE FUNCTION public.note_changed_projects()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('project:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.visibility, a.allow_derivatives)
           is distinct from (b.owner_id, b.visibility, b.allow_derivatives)));
  return null;
end $function$;
comment on function note_changed_projects() is 'Records project:<id> for each project whose owner, visibility or allow_derivatives changed.';

CREATE OR REPLACE FUNCTION public.note_changed_restrictions()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((select string_agg(concat('mode:', id, e'\n', 'blocked_networks:', id, e'\n'), '') from after));
  return null;
end $function$;
comment on function note_changed_restrictions() is 'Records mode:<id> and blocked_networks:<id> when the row of restrictions is inserted or updated.';

CREATE OR REPLACE FUNCTION public.note_changed_service_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('service_key:', id, e'\n'), '') from before b full join after a using (id)
     where (a.secret_hash, a.scopes, a.revoked_at is null, a.blocked, a.expires_at, a.limit_per_second, a.allowed_networks)
           is distinct from
           (b.secret_hash, b.scopes, b.revoked_at is null, b.blocked, b.expires_at, b.limit_per_second, b.allowed_networks)));
  return null;
end $function$;
comment on function note_changed_service_keys() is 'Records service_key:<id> for each key whose secret, scopes, revocation, block, expiry, limit or networks changed.';

CREATE OR REPLACE FUNCTION public.note_changed_sessions()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before b full join after a using (id)
     where (a.user_id, a.ended_at is null, least(a.idle_expires_at, a.expires_at), coalesce(a.authenticated_at, a.created_at),
            a.country, a.earlier_countries, a.network_hash, a.browser, a.platform, a.seen_country, a.seen_at)
           is distinct from
           (b.user_id, b.ended_at is null, least(b.idle_expires_at, b.expires_at), coalesce(b.authenticated_at, b.created_at),
            b.country, b.earlier_countries, b.network_hash, b.browser, b.platform, b.seen_country, b.seen_at)));
  return null;
end $function$;
comment on function note_changed_sessions() is 'Records session:<id> for each session whose user, end, expiry, time of authentication or origin changed.';

CREATE OR REPLACE FUNCTION public.note_changed_users()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('account:', id, e'\n'), '') from before b full join after a using (id)
     where (a.status, a.role, a.plan, a.limits, a.blocked)
           is distinct from (b.status, b.role, b.plan, b.limits, b.blocked)));
  return null;
end $function$;
comment on function note_changed_users() is 'Records account:<id> for each account whose status, role, plan, limits or block changed.';

CREATE OR REPLACE FUNCTION public.note_everything()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched(e'*\n');
  return null;
end $function$;
comment on function note_everything() is 'Records *, which invalidates everything: TRUNCATE does not say which rows it removes.';

CREATE OR REPLACE FUNCTION public.note_media_orphans(lost text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if lost is null then return; end if;
  insert into media_orphans as o (sha256) select distinct unnest(lost) as sha256 order by sha256
      on conflict (sha256) do update set since = excluded.since;
  perform pg_notify('velro', 'orphans');
end $function$;
comment on function note_media_orphans(lost text[]) is 'Records objects that lost a reference, and notifies the sweepers when the transaction commits.';

CREATE OR REPLACE FUNCTION public.note_moved_memberships()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(distinct concat('memberships:', user_id, e'\n'), '')
      from before b full join after a using (team_id, user_id)
     where a.role is null or b.role is null));
  return null;
end $function$;
comment on function note_moved_memberships() is 'Records memberships:<user> for each membership whose team or user an update changed. A change of the role records nothing.';

CREATE OR REPLACE FUNCTION public.note_removed()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((select string_agg(concat(tg_argv[0], ':', id, e'\n'), '') from before));
  return null;
end $function$;
comment on function note_removed() is 'Records <kind>:<id> for each deleted row; the kind is the argument of the trigger.';

CREATE OR REPLACE FUNCTION public.note_removed_sessions()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('session:', id, e'\n'), '') from before
     where ended_at is null and least(idle_expires_at, expires_at) > now()));
  return null;
end $function$;
comment on function note_removed_sessions() is 'Records session:<id> for each deleted session that was live. An ended or expired one is refused with or without its row.';

CREATE OR REPLACE FUNCTION public.note_touched(names text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  place integer;
  before text;
  event bigint;
begin
  if names is null or names = '' then return; end if;
  if coalesce(current_setting('velro.event', true), '') = '' then
    set constraints publish_at_commit deferred;
    loop
      insert into access_events (keys) values ('{*}') on conflict do nothing returning id into event;
      exit when found;
    end loop;
    perform set_config('velro.event', event::text, true);
  end if;
  place := coalesce(nullif(current_setting('velro.touched_place', true), ''), '0');
  before := coalesce(current_setting('velro.touched_' || place, true), '');
  if length(before) > max_setting_length() then
    place := place + 1;
    before := '';
    perform set_config('velro.touched_place', place::text, true);
  end if;
  perform set_config('velro.touched_' || place, before || names, true);
end $function$;
comment on function note_touched(names text) is 'Records invalidation keys for this transaction, to be published when it commits.';

CREATE OR REPLACE FUNCTION public.note_touched_grants()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_touched((
    select string_agg(concat('grant:', user_id, '/', project_id, e'\n'), '') from changed
     where not owned or project_id::text is distinct from nullif(current_setting('velro.new_project', true), '')));
  return null;
end $function$;
comment on function note_touched_grants() is 'Records grant:<user>/<project> for each changed row of project_access, except the owner of a project that is new.';

CREATE OR REPLACE FUNCTION public.orphans_of_job()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_media_orphans(array[old.reference_sha256]);
  return null;
end $function$;
comment on function orphans_of_job() is 'Records the reference object of a deleted job as a possible orphan.';

CREATE OR REPLACE FUNCTION public.orphans_of_media()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform note_media_orphans((select array_agg(sha256) from gone));
  return null;
end $function$;
comment on function orphans_of_media() is 'Records the objects of deleted media as possible orphans.';

CREATE OR REPLACE FUNCTION public.pass_teams(person uuid, leaving boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  owned uuid;
  successor uuid;
begin
  perform lock_teams_of_member(person, leaving);
  perform lock_access_of_users(person || array(
    select successor_of(team_id, person, leaving) from team_members where user_id = person and role = 'owner'));
  for owned in select team_id from team_members where user_id = person and role = 'owner' order by team_id loop
    successor := successor_of(owned, person, leaving);
    if successor is not null then
      update team_members set role = 'admin' where team_id = owned and user_id = person;
      update team_members set role = 'owner' where team_id = owned and user_id = successor;
    elsif leaving then
      delete from project_grants where team_id = owned;
      delete from teams where id = owned;
    end if;
  end loop;
  if leaving then delete from team_members where user_id = person; end if;
end $function$;
comment on function pass_teams(person uuid, leaving boolean) is 'Passes the teams that a user owns to their successors. If leaving, deletes teams without one, and ends every membership.';

CREATE OR REPLACE FUNCTION public.pass_teams_of_user()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pass_teams(new.id, new.status = 'deleted');
  return null;
end $function$;
comment on function pass_teams_of_user() is 'Passes on the teams of an account that was suspended or deleted, also by hand.';

CREATE OR REPLACE FUNCTION public.project_access_after_removal()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  delete from project_access where project_id = old.id;
  return null;
end $function$;
comment on function project_access_after_removal() is 'Deletes the access rows of a deleted project.';

CREATE OR REPLACE FUNCTION public.project_access_before_removal()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform lock_project_access(old.id);
  perform lock_teams_of_project(old.id);
  return old;
end $function$;
comment on function project_access_before_removal() is 'Locks the teams with a grant on a project that is about to be deleted.';

CREATE OR REPLACE FUNCTION public.project_access_on_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  changed uuid;
begin
  perform require_read_committed();
  for changed in
    select id from projects where id in (old.project_id, new.project_id) order by id for no key update
  loop
    perform lock_project_access(changed);
    perform lock_teams_of_project(changed, array_remove(array[old.team_id, new.team_id], null));
    perform refresh_project_access(array[changed]);
  end loop;
  return null;
end $function$;
comment on function project_access_on_grant() is 'Recomputes the access to the project of a changed grant; locks the project, then its teams.';

CREATE OR REPLACE FUNCTION public.project_access_on_member()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  granted uuid[];
  person uuid;
begin
  perform require_read_committed();
  perform from teams where id in (old.team_id, new.team_id) order by id for no key update;
  granted := array(select project_id from project_grants where team_id in (old.team_id, new.team_id));
  if granted = '{}' then return null; end if;
  for person in select distinct unnest(array_remove(array[old.user_id, new.user_id], null)) order by 1 loop
    -- A user may be changed in two teams at once, whose row locks do not exclude each other.
    perform pg_advisory_xact_lock(hashtextextended(person::text, user_access_lock_seed()));
    perform refresh_project_access_of(person, granted);
  end loop;
  return null;
end $function$;
comment on function project_access_on_member() is 'Recomputes the access of a user whose membership changed; locks the team, then the user.';

CREATE OR REPLACE FUNCTION public.project_access_on_project()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform require_read_committed();
  if tg_op = 'UPDATE' then
    perform lock_project_access(new.id);
    perform lock_teams_of_project(new.id);
  else
    perform set_config('velro.new_project', new.id::text, true);
  end if;
  perform refresh_project_access(array[new.id]);
  return null;
end $function$;
comment on function project_access_on_project() is 'Recomputes the access to a project that is new or whose owner or visibility changed; locks its teams.';

CREATE OR REPLACE FUNCTION public.project_access_on_requirement()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  granted uuid[];
begin
  perform require_read_committed();
  granted := array(select project_id from project_grants where team_id = new.id);
  perform lock_projects_and_teams(granted, array[new.id]);
  perform refresh_project_access(granted);
  return null;
end $function$;
comment on function project_access_on_requirement() is 'Recomputes the access to the projects of a team that begins or ceases to require a second factor.';

CREATE OR REPLACE FUNCTION public.project_access_on_second_factor()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  granted uuid[];
begin
  perform require_read_committed();
  perform from users where id = new.id for update;
  perform lock_teams_of_member(new.id, false);
  granted := array(
    select distinct g.project_id
      from team_members m
      join teams t on t.id = m.team_id and t.requires_second_factor
      join project_grants g on g.team_id = m.team_id
     where m.user_id = new.id);
  if granted = '{}' then return null; end if;
  perform lock_access_of_users(array[new.id]);
  perform refresh_project_access_of(new.id, granted);
  return null;
end $function$;
comment on function project_access_on_second_factor() is 'Recomputes the access of a user who got the first second factor or lost the last one, through teams that require one.';

CREATE OR REPLACE FUNCTION public.project_access_on_truncate()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  differing uuid[];
begin
  perform require_read_committed();
  differing := array(select distinct project_id from project_access_difference);
  perform from projects where id = any (differing) order by id for no key update;
  perform refresh_project_access(differing);
  return null;
end $function$;
comment on function project_access_on_truncate() is 'Recomputes all access that differs after team_members or project_grants was truncated.';

CREATE OR REPLACE FUNCTION public.project_access_on_truncate_of_projects()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  delete from project_access;
  return null;
end $function$;
comment on function project_access_on_truncate_of_projects() is 'Deletes all access rows after projects was truncated.';

CREATE OR REPLACE FUNCTION public.projects_of_only_member(person uuid)
 RETURNS uuid[]
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT COALESCE(array_agg(g.project_id), '{}'::uuid[]) AS "coalesce"
    FROM (team_members m
      JOIN project_grants g ON ((g.team_id = m.team_id)))
   WHERE ((m.user_id = projects_of_only_member.person) AND (m.role = 'owner'::text) AND (NOT (EXISTS ( SELECT
            FROM team_members o
           WHERE ((o.team_id = m.team_id) AND (o.user_id <> projects_of_only_member.person))))));
END;
comment on function projects_of_only_member(person uuid) is 'Projects granted to the teams whose only member is this user.';

CREATE OR REPLACE FUNCTION public.publish_access_event(writer text, always boolean)
 RETURNS TABLE(id bigint, keys text[])
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  event bigint := nullif(current_setting('velro.event', true), '');
begin
  if event is null then
    if not always then return; end if;
    loop
      insert into access_events as e (keys, writer, ordinal)
        values ('{}', nullif(publish_access_event.writer, ''), nextval('access_event_ordinals'))
        on conflict do nothing
        returning e.id, e.keys into publish_access_event.id, publish_access_event.keys;
      exit when found;
    end loop;
    return next;
    return;
  end if;
  publish_access_event.id := event;
  publish_access_event.keys := array(select distinct touched_facts());
  if cardinality(publish_access_event.keys) > max_keys_per_event() then
    publish_access_event.keys := array(
      select distinct case when name like 'grant:%' then 'grants:' || split_part(substr(name, 7), '/', 1) else name end
        from unnest(publish_access_event.keys) name);
  end if;
  if '*' = any (publish_access_event.keys) or cardinality(publish_access_event.keys) > max_keys_per_event() then
    publish_access_event.keys := '{*}';
  end if;
  update access_events e
     set keys = publish_access_event.keys, writer = nullif(publish_access_event.writer, ''), created_at = clock_timestamp(),
         ordinal = nextval('access_event_ordinals')
   where e.id = event;
  for place in 0 .. coalesce(nullif(current_setting('velro.touched_place', true), ''), '0')::integer loop
    perform set_config('velro.touched_' || place, '', true);
  end loop;
  perform set_config('velro.touched_place', '', true), set_config('velro.event', '', true);
  return next;
end $function$;
comment on function publish_access_event(writer text, always boolean) is 'Writes the recorded invalidation keys into the row of the event, which is sent when the transaction commits.';

CREATE OR REPLACE FUNCTION public.publish_at_commit()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  -- Also where it is another event of the transaction, which is sent with this one.
  if coalesce(current_setting('velro.event', true), '') <> '' then perform publish_access_event('', false); end if;
  if not exists (select from access_events e where e.id = new.id) then
    perform pg_notify('velro', event_payload(new.id, null, next_event_position(), null));
  elsif current_setting('velro.unsent_event', true) is distinct from new.id::text then
    perform send_access_events();
  end if;
  return null;
end $function$;
comment on function publish_at_commit() is 'Sends the event of the transaction when it commits, so that no write can skip the invalidation.';

CREATE OR REPLACE FUNCTION public.record_access_event(writer text, always boolean)
 RETURNS TABLE(id bigint, keys text[])
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  select event.id, event.keys into record_access_event.id, record_access_event.keys
    from publish_access_event(record_access_event.writer, record_access_event.always) event;
  if not found then return; end if;
  perform set_config('velro.unsent_event', record_access_event.id::text, true);
  return next;
end $function$;
comment on function record_access_event(writer text, always boolean) is 'Writes the recorded invalidation keys into the row of the event, which send_access_events sends once the transaction has committed.';

CREATE OR REPLACE FUNCTION public.record_webhook_event(kind text, about text, about_id text, details jsonb, of_teams uuid[], of_operators boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform record_webhook_events(kind, about, array[about_id], array[details], of_teams, of_operators);
end $function$;
comment on function record_webhook_event(kind text, about text, about_id text, details jsonb, of_teams uuid[], of_operators boolean) is 'As record_webhook_events, for one event.';

CREATE OR REPLACE FUNCTION public.record_webhook_events(kind text, about text, ids text[], details jsonb[], of_teams uuid[], of_operators boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if not exists (select from webhooks) then return; end if;
  with wanted as materialized (
    select id from wanting_webhooks(kind, of_teams, of_operators) id
  ), event as (
    insert into webhook_events (id, type, resource, data)
    select webhook_event_id(), kind, concat(about, ':', about_id), detail
      from unnest(ids, details) with ordinality as given (about_id, detail, place)
     where exists (select from wanted) order by place
    returning id, ordinal, resource
  )
  insert into webhook_deliveries (webhook_id, event_id, ordinal, resource, due_at)
  select w.id, e.id, e.ordinal, e.resource, case when kind like 'generation.%' or kind like 'alert.%' then 'epoch'::timestamptz end
    from wanted w cross join event e;
end $function$;
comment on function record_webhook_events(kind text, about text, ids text[], details jsonb[], of_teams uuid[], of_operators boolean) is 'Records events of one type, each about one resource, and their deliveries to the webhooks that want them. Writes nothing where none does.';

CREATE OR REPLACE FUNCTION public.recount_usage()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform set_config('velro.counts_usage', 'on', true);
  lock table projects, media in share row exclusive mode;
  insert into account_usage as u (user_id, media_bytes, projects)
  select coalesce(held.owner_id, known.user_id), coalesce(held.bytes, 0), coalesce(held.projects, 0)
    from (select owner_id, sum(bytes)::bigint as bytes, sum(projects)::bigint as projects
            from (select m.owner_id, o.bytes, 0 as projects from media m join media_objects o on o.sha256 = m.sha256
                  union all select owner_id, 0, 1 from projects) each
           group by owner_id) held
    full join account_usage known on known.user_id = held.owner_id
   where (known.media_bytes, known.projects) is distinct from (coalesce(held.bytes, 0), coalesce(held.projects, 0))
   order by 1
      on conflict (user_id) do update set media_bytes = excluded.media_bytes, projects = excluded.projects;
  perform set_config('velro.counts_usage', '', true);
end $function$;
comment on function recount_usage() is 'Counts the stored bytes and the projects of all accounts anew.';

CREATE OR REPLACE FUNCTION public.recount_usage_of(person uuid)
 RETURNS TABLE(media_bytes bigint, projects bigint, held_bytes bigint, held_projects bigint)
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  select u.media_bytes, u.projects into media_bytes, projects from account_usage u where u.user_id = person for update;
  if not found then
    perform set_config('velro.counts_usage', 'on', true);
    insert into account_usage (user_id) values (person) on conflict do nothing;
    perform set_config('velro.counts_usage', '', true);
    select u.media_bytes, u.projects into media_bytes, projects from account_usage u where u.user_id = person for update;
  end if;
  select coalesce(sum(o.bytes), 0)::bigint into held_bytes
    from media m join media_objects o on o.sha256 = m.sha256 where m.owner_id = person;
  select count(*) into held_projects from projects p where p.owner_id = person;
  if (media_bytes, projects) is distinct from (held_bytes, held_projects) then
    update account_usage u set media_bytes = held_bytes, projects = held_projects where u.user_id = person;
    return next;
  end if;
end $function$;
comment on function recount_usage_of(person uuid) is 'Counts the stored bytes and the projects of one account anew. Returns the old and the new figures where they differ.';

CREATE OR REPLACE FUNCTION public.redis_database()
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO '$user', 'public'
AS $function$
  select database_identity() || '-' || md5(string_agg(coalesce(pg_relation_filenode(name::regclass), 0)::text, ' ' order by name))
    from unnest('{access_events,generations,media,project_access,projects,service_keys,sessions,users}'::text[]) name
$function$;
comment on function redis_database() is 'Identifies the database and the files of its cached tables, for the keys of entries in Redis.';

CREATE OR REPLACE FUNCTION public.refresh_project_access(refreshed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
  perform set_config('velro.computes_access', 'on', true);
  with expected as (
    select user_id, project_id, actions, owned from project_access_expected where project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.project_id = any (refreshed)
       and not exists (select from expected e where e.user_id = a.user_id and e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions, owned)
  select user_id, project_id, actions, owned from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions, owned = excluded.owned
   where (a.actions, a.owned) <> (excluded.actions, excluded.owned);
  perform set_config('velro.computes_access', '', true);
end $function$;
comment on function refresh_project_access(refreshed uuid[]) is 'Recomputes project_access for all users of the given projects; the caller has locked the projects and their teams.';

CREATE OR REPLACE FUNCTION public.refresh_project_access_of(person uuid, refreshed uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
  perform set_config('velro.computes_access', 'on', true);
  with expected as (
    select project_id, actions, owned from project_access_expected
     where user_id = person and project_id = any (refreshed)
  ), gone as (
    delete from project_access a
     where a.user_id = person and a.project_id = any (refreshed)
       and not exists (select from expected e where e.project_id = a.project_id)
  )
  insert into project_access as a (user_id, project_id, actions, owned)
  select person, project_id, actions, owned from expected
      on conflict (user_id, project_id) do update set actions = excluded.actions, owned = excluded.owned
   where (a.actions, a.owned) <> (excluded.actions, excluded.owned);
  perform set_config('velro.computes_access', '', true);
end $function$;
comment on function refresh_project_access_of(person uuid, refreshed uuid[]) is 'Recomputes project_access for one user on the given projects; the caller has locked the team and the user.';

CREATE OR REPLACE FUNCTION public.refresh_second_factor()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  person uuid := coalesce(new.user_id, old.user_id);
  enrolled boolean;
begin
  perform from users where id = person for update;
  enrolled := exists (select from totp_factors where user_id = person and confirmed_at is not null)
           or exists (select from passkeys where user_id = person);
  update users set second_factor = enrolled where id = person and second_factor <> enrolled;
  return null;
end $function$;
comment on function refresh_second_factor() is 'Keeps users.second_factor when an authenticator app or a passkey is added or removed; locks the account.';

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  raise exception 'table % is append-only: write a ledger entry instead', tg_table_name
    using errcode = 'insufficient_privilege';
end $function$;
comment on function refuse_change() is 'Refuses to change or delete ledger entries, and to write balances other than through the ledger.';

CREATE OR REPLACE FUNCTION public.register_redis(own_instance text, own_server text, outdated_epoch text)
 RETURNS TABLE(epoch text, server text, database text, events bigint, chosen_s double precision)
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  identity text := redis_database();
  choice redis_registry;
begin
  insert into redis_registrations as r (instance, server, seen_at)
  values (own_instance, own_server, clock_timestamp())
      on conflict (instance) do update set server = excluded.server, seen_at = excluded.seen_at;
  delete from redis_registrations where instance in (
    select r.instance from redis_registrations r where r.seen_at < clock_timestamp() - interval '10 seconds' for update skip locked);
  select * into choice from redis_registry;
  if own_server is not null and may_choose_redis(choice, own_server, identity, outdated_epoch) then
    if choice.epoch is null then
      insert into redis_registry (epoch, server, database) values (gen_random_uuid()::text, own_server, identity)
          on conflict do nothing;
    else
      perform from redis_registry for update skip locked;
      if found then
        select * into choice from redis_registry;
        if may_choose_redis(choice, own_server, identity, outdated_epoch) then
          update redis_registry as r
             set epoch = gen_random_uuid()::text, server = own_server, database = identity, chosen_at = clock_timestamp();
        end if;
      end if;
    end if;
    select * into choice from redis_registry;
  end if;
  if choice.database = identity then
    return query select choice.epoch, choice.server, identity,
      coalesce(pg_sequence_last_value(pg_get_serial_sequence('access_events', 'id')::regclass), 0),
      extract(epoch from clock_timestamp() - choice.chosen_at)::float8;
  end if;
end $function$;
comment on function register_redis(own_instance text, own_server text, outdated_epoch text) is 'Registers the Redis server of an instance for 10 seconds, and returns the server that all instances share.';

CREATE OR REPLACE FUNCTION public.renew_redis_epoch()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if coalesce(current_setting('velro.confirming', true), '') = 'on' then return null; end if;
  if tg_op = 'DELETE' then
    if not exists (select from before) then return null; end if;
  end if;
  update redis_registry set epoch = gen_random_uuid()::text, chosen_at = clock_timestamp();
  return null;
end $function$;
comment on function renew_redis_epoch() is 'Begins a new epoch of the shared Redis server when events are removed that no instance confirmed.';

CREATE OR REPLACE FUNCTION public.require_read_committed()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'access is changed at read committed, not at %', current_setting('transaction_isolation');
  end if;
end $function$;
comment on function require_read_committed() is 'Refuses to change access at another isolation level than read committed.';

CREATE OR REPLACE FUNCTION public.send_access_events()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
 SET enable_seqscan TO 'off'
AS $function$
declare
  newest bigint;
begin
  if not exists (select from access_events e where e.position is null) then return; end if;
  select p.position into newest from event_positions p for no key update;
  if not found then newest := next_event_position() - 1; end if;
  with unsent as materialized (
    select e.id, newest + row_number() over (order by e.ordinal nulls first, e.id) as next_position from access_events e where e.position is null
  ), numbered as (
    update access_events e set position = unsent.next_position from unsent where e.id = unsent.id
    returning e.id, e.writer, e.position, e.keys
  ), ordered as materialized (
    select n.position, event_payload(n.id, n.writer, n.position, n.keys) as payload from numbered n order by n.position
  ), notified as materialized (
    select o.position, pg_notify('velro', o.payload) from ordered o
  )
  select max(n.position) into newest from notified n;
  update event_positions p set position = newest where newest is not null;
end $function$;
comment on function send_access_events() is 'Sends every invalidation event that is committed and unsent.';

CREATE OR REPLACE FUNCTION public.send_heartbeat(instance text, heartbeat text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform set_config('lock_timeout', '2s', true);
  if current_setting('synchronous_standby_names') <> '' then perform pg_logical_emit_message(true, 'velro', '');
  else perform set_config('synchronous_commit', 'off', true);
  end if;
  perform send_access_events();
  perform pg_notify('velro', format('beat %s %s 2 %s %s', instance, heartbeat, database_identity(),
    coalesce((select position from event_positions), 0)));
end $function$;
comment on function send_heartbeat(instance text, heartbeat text) is 'Notifies all instances of a heartbeat, with the identity of the database and the position of the newest committed event.';

CREATE OR REPLACE FUNCTION public.service_key_lock_seed()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN '7301950221'::bigint;
comment on function service_key_lock_seed() is 'Hash seed of the advisory locks under which a service key is revoked. The writes of services that act with it hold them shared.';

CREATE OR REPLACE FUNCTION public.share_project_access(decided uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('project ' || id, user_access_lock_seed()))
    from (select distinct id from unnest(decided) id order by id) ids;
end $function$;
comment on function share_project_access(decided uuid[]) is 'Locks the access to projects, so that a write that is decided by it holds until the commit.';

CREATE OR REPLACE FUNCTION public.skip_computed_rows()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if tg_level = 'STATEMENT' then
    raise notice 'triggers compute the rows of table %: those given are skipped', tg_table_name;
  end if;
  return null;
end $function$;
comment on function skip_computed_rows() is 'Skips given rows of a table that triggers compute.';

CREATE OR REPLACE FUNCTION public.successor_of(team uuid, person uuid, leaving boolean)
 RETURNS uuid
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT m.user_id
    FROM (team_members m
      JOIN users u ON ((u.id = m.user_id)))
   WHERE ((m.team_id = successor_of.team) AND (m.user_id <> successor_of.person) AND ((u.status = 'active'::text) OR (successor_of.leaving AND (u.status = 'suspended'::text))))
   ORDER BY (u.status = 'active'::text) DESC, (array_position(ARRAY['owner'::text, 'admin'::text, 'editor'::text, 'contributor'::text, 'viewer'::text], m.role)), m.joined_at, m.user_id
  LIMIT 1;
END;
comment on function successor_of(team uuid, person uuid, leaving boolean) is 'The member to whom a team passes when its owner is suspended or, if leaving, goes for good.';

CREATE OR REPLACE FUNCTION public.touched_facts()
 RETURNS SETOF text
 LANGUAGE sql
BEGIN ATOMIC
 SELECT name.name
    FROM generate_series(0, (COALESCE(NULLIF(current_setting('velro.touched_place'::text, true), ''::text), '0'::text))::integer) place(place),
     LATERAL string_to_table(current_setting(('velro.touched_'::text || place.place), true), '
'::text) name(name)
   WHERE (name.name <> ''::text);
END;
comment on function touched_facts() is 'The invalidation keys that this transaction has recorded and not published yet, with duplicates.';

CREATE OR REPLACE FUNCTION public.unlist_generations()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  delete from public_generations;
  return null;
end $function$;
comment on function unlist_generations() is 'Empties public_generations after generations was truncated.';

CREATE OR REPLACE FUNCTION public.usage_lock_seed()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN '7301950219'::bigint;
comment on function usage_lock_seed() is 'Hash seed of the advisory locks under which what an account holds grows.';

CREATE OR REPLACE FUNCTION public.usage_of(person uuid, quota text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
 SET enable_seqscan TO 'off'
AS $function$
begin
  case quota
    when 'projects' then
      return coalesce((select projects from account_usage where user_id = person), 0);
    when 'teams' then
      return (select count(*) from team_members where user_id = person and role = 'owner');
    when 'sessions' then
      return (select count(*) from sessions
               where user_id = person and ended_at is null and least(idle_expires_at, expires_at) > clock_timestamp());
    when 'jobs_under_way' then
      return (select count(*) from generation_jobs where owner_id = person);
    when 'stored_bytes' then
      return coalesce((select media_bytes from account_usage where user_id = person), 0)
           + coalesce((select sum(reserved_bytes) from generation_jobs where owner_id = person), 0);
  end case;
end $function$;
comment on function usage_of(person uuid, quota text) is 'How much of a quota an account uses.';

CREATE OR REPLACE FUNCTION public.user_access_lock_seed()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN '7301950218'::bigint;
comment on function user_access_lock_seed() is 'Hash seed of the advisory locks under which the effective access of one user, or to one project, changes.';

CREATE OR REPLACE FUNCTION public.users_with_access(kind text, resource uuid, wanted integer, to_owner boolean, to_anyone boolean, listing_everyone boolean, before uuid, size integer, OUT everyone boolean, OUT page uuid[])
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
declare
  project uuid := resource;
  generation uuid := resource;
  owner uuid;
begin
  if kind = 'media' then
    -- Media follow their generation once it is completed. Uploads have none.
    select m.generation_id, m.owner_id into generation, owner from media m where m.id = resource;
    if generation is not null then
      select g.owner_id, g.project_id into owner, project from generations g
       where g.id = generation and g.status = 'completed';
    else
      project := null;
    end if;
  elsif kind = 'generation' then
    select g.owner_id, g.project_id into owner, project from generations g where g.id = resource;
  end if;
  everyone := to_anyone and exists (select from projects p where p.id = project and p.visibility = 'public');
  if everyone and listing_everyone then
    page := array(select u.id from users u where u.status = 'active' and u.id < before order by u.id desc limit size);
    return;
  end if;
  page := array(
    select a.user_id from project_access a
     where a.project_id = project and a.user_id < before and a.actions & wanted <> 0
       and a.user_id is distinct from owner
       and (select u.status from users u where u.id = a.user_id) = 'active'
     order by a.user_id desc limit size);
  -- For the owner of a generation, ownership decides alone.
  if to_owner and owner < before and (select u.status from users u where u.id = owner) = 'active' then
    page := merge_page(page || owner, size);
  end if;
end $function$;
comment on function users_with_access(kind text, resource uuid, wanted integer, to_owner boolean, to_anyone boolean, listing_everyone boolean, before uuid, size integer, OUT everyone boolean, OUT page uuid[]) is 'A page of the active users who may do the wanted actions on a resource as its owner or through a team, and whether every user may, because it is in a public project.';

CREATE OR REPLACE FUNCTION public.wanting_webhooks(kind text, of_teams uuid[], of_operators boolean)
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
AS $function$
begin
  return query select id from webhooks
    where enabled and kind = any (events) and (team_id = any (of_teams) or of_operators and team_id is null);
end $function$;
comment on function wanting_webhooks(kind text, of_teams uuid[], of_operators boolean) is 'The enabled webhooks that want events of a type: those of the given teams and, if asked for, those of the operators.';

CREATE OR REPLACE FUNCTION public.webhook_event_id()
 RETURNS uuid
 LANGUAGE sql
RETURN (encode(set_bit(set_bit(OVERLAY(uuid_send(gen_random_uuid()) PLACING SUBSTRING(int8send(((EXTRACT(epoch FROM clock_timestamp()) * '1000'::numeric))::bigint) FROM 3) FROM 1 FOR 6), (52)::bigint, 1), (53)::bigint, 1), 'hex'::text))::uuid;
comment on function webhook_event_id() is 'A new id for a webhook event: a UUID of version 7, so that ids have the order of time.';

CREATE OR REPLACE FUNCTION public.webhook_on_access()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if exists (select from wanting_webhooks('access.changed', '{}', true)) then
    perform record_webhook_events('access.changed', 'project', array_agg(project_id::text order by project_id, part),
              array_agg(jsonb_build_object('project_id', project_id, 'team_id', null, 'user_ids', users)
                order by project_id, part), '{}', true)
       from (select project_id, part, jsonb_agg(user_id order by user_id) as users
               from (select project_id, user_id,
                            (row_number() over (partition by project_id order by user_id) - 1) / max_users_per_webhook_event() as part
                       from changed
                      where not owned or project_id::text is distinct from nullif(current_setting('velro.new_project', true), '')) numbered
              group by project_id, part) parts;
  end if;
  return null;
end $function$;
comment on function webhook_on_access() is 'Records access.changed for the users whose effective access to a project changed, up to 100 in one event.';

CREATE OR REPLACE FUNCTION public.webhook_on_alert()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform record_webhook_event(tg_argv[0], 'alert', new.id::text, jsonb_build_object(
    'alert_id', new.id, 'metric', new.metric, 'severity', new.severity, 'value', new.value, 'target', new.target,
    'samples', new.samples), '{}', true);
  return null;
end $function$;
comment on function webhook_on_alert() is 'Records the event that is the argument of the trigger, alert.opened, alert.raised or alert.cleared, for operators.';

CREATE OR REPLACE FUNCTION public.webhook_on_generation_end()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  kind text := 'generation.' || new.status;
begin
  if exists (select from webhooks where enabled and kind = any (events)) then
    perform record_webhook_event(kind, 'generation', new.id::text, jsonb_build_object(
      'generation_id', new.id, 'owner_id', new.owner_id, 'project_id', new.project_id, 'model', new.model, 'failure', new.failure),
      array(select g.team_id from project_grants g join projects p on p.id = g.project_id
             where p.id = new.project_id and p.visibility <> 'private'), true);
  end if;
  return null;
end $function$;
comment on function webhook_on_generation_end() is 'Records generation.completed or generation.failed for a generation that ended so.';

CREATE OR REPLACE FUNCTION public.webhook_on_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
declare
  team uuid := coalesce(new.team_id, old.team_id);
  project uuid := coalesce(new.project_id, old.project_id);
begin
  if not exists (select from projects where id = project and visibility = 'private') then
    perform record_webhook_event('access.changed', 'project', project::text, jsonb_build_object(
      'project_id', project, 'team_id', team, 'user_ids', null), array[team], false);
  end if;
  return null;
end $function$;
comment on function webhook_on_grant() is 'Records access.changed for the webhooks of a team whose grant on a project was made, changed or withdrawn.';

CREATE OR REPLACE FUNCTION public.webhook_on_members()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if exists (select from webhooks) then
    perform record_webhook_events(tg_argv[0], 'team', array_agg(team_id::text order by user_id), array_agg(jsonb_build_object(
              'team_id', team_id, 'user_id', user_id, 'role', role) order by user_id), array[team_id], true)
       from changed group by team_id order by team_id;
  end if;
  return null;
end $function$;
comment on function webhook_on_members() is 'Records the event that is the argument of the trigger, team.member_added or team.member_removed, for each row.';

CREATE OR REPLACE FUNCTION public.webhook_on_new_users()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if exists (select from wanting_webhooks('user.created', '{}', true)) then
    perform record_webhook_events('user.created', 'user', array_agg(id::text order by id),
              array_agg(jsonb_build_object('user_id', id) order by id), '{}', true)
       from added;
  end if;
  return null;
end $function$;
comment on function webhook_on_new_users() is 'Records user.created for each new account.';

CREATE OR REPLACE FUNCTION public.webhook_on_role()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform record_webhook_event('access.changed', 'team', new.team_id::text, jsonb_build_object(
    'project_id', null, 'team_id', new.team_id, 'user_ids', jsonb_build_array(new.user_id)), array[new.team_id], false);
  return null;
end $function$;
comment on function webhook_on_role() is 'Records access.changed for the webhooks of a team in which a member got another role.';

CREATE OR REPLACE FUNCTION public.webhook_on_session_end()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  perform record_webhook_event('session.ended', 'user', old.user_id::text, jsonb_build_object(
    'session_id', old.id, 'user_id', old.user_id, 'reason', coalesce(new.end_reason, 'removed')), '{}', true);
  return null;
end $function$;
comment on function webhook_on_session_end() is 'Records session.ended for a session that was ended, or removed while it was live. Expiry is no event.';

CREATE OR REPLACE FUNCTION public.webhook_on_user_status()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if new.status = 'deleted' then
    perform record_webhook_event('user.closed', 'user', new.id::text, jsonb_build_object('user_id', new.id), '{}', true);
  else
    perform record_webhook_event('access.changed', 'user', new.id::text, jsonb_build_object(
      'project_id', null, 'team_id', null, 'user_ids', jsonb_build_array(new.id)), '{}', true);
  end if;
  return null;
end $function$;
comment on function webhook_on_user_status() is 'Records user.closed for a closed account, and access.changed for one that was suspended or activated.';

CREATE OR REPLACE FUNCTION public.webhook_on_visibility()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO '$user', 'public'
AS $function$
begin
  if (old.visibility = 'public') <> coalesce(new.visibility = 'public', false) then
    perform record_webhook_event('access.changed', 'project', old.id::text, jsonb_build_object(
      'project_id', old.id, 'team_id', null, 'user_ids', null), '{}', true);
  end if;
  if (old.visibility = 'private') <> (new.visibility = 'private') then
    perform record_webhook_event('access.changed', 'project', old.id::text, jsonb_build_object(
              'project_id', old.id, 'team_id', team_id, 'user_ids', null), array[team_id], false)
       from project_grants where project_id = old.id and exists (select from webhooks) order by team_id;
  end if;
  return null;
end $function$;
comment on function webhook_on_visibility() is 'Records access.changed for a project that became public or ceased to be it, and for the teams whose grants on it now count or sleep.';

CREATE OR REPLACE FUNCTION public.wrong_usage(first uuid, last uuid)
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO '$user', 'public'
AS $function$
begin
  return query
  select user_id
    from (select u.user_id, u.media_bytes, u.projects from account_usage u where u.user_id > first and u.user_id <= last) counted
    full join (select m.owner_id as user_id, sum(o.bytes)::bigint as held_bytes
                 from media m join media_objects o on o.sha256 = m.sha256
                where m.owner_id > first and m.owner_id <= last group by 1) m using (user_id)
    full join (select p.owner_id as user_id, count(*) as held_projects
                 from projects p where p.owner_id > first and p.owner_id <= last group by 1) p using (user_id)
   where (coalesce(media_bytes, 0), coalesce(projects, 0)) is distinct from (coalesce(held_bytes, 0), coalesce(held_projects, 0))
   order by user_id;
end $function$;
comment on function wrong_usage(first uuid, last uuid) is 'Accounts in a range of ids whose counters of stored bytes and projects are wrong.';

create table access_checks (
  name text not null,
  due_at timestamp with time zone default clock_timestamp() not null,
  finished_at timestamp with time zone,
  took interval,
  constraint access_checks__pkey PRIMARY KEY (name)
);
comment on table access_checks is 'When each check of computed rows (effective access, usage of accounts) is due, so that one instance runs it and the others skip it.';
comment on column access_checks.took is 'Duration of the last run. The longer it took, the later the next one is due.';

create table access_events (
  id bigint generated always as identity not null,
  keys text[] not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  writer text,
  position bigint,
  ordinal bigint,
  constraint access_events_pkey PRIMARY KEY (id)
);
CREATE INDEX access_events__unsent ON public.access_events USING btree (ordinal) WHERE ("position" IS NULL);
CREATE CONSTRAINT TRIGGER publish_at_commit AFTER INSERT ON public.access_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION publish_at_commit();
CREATE TRIGGER renew_redis_epoch AFTER DELETE ON public.access_events REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION renew_redis_epoch();
CREATE TRIGGER renew_redis_epoch_on_truncate AFTER TRUNCATE ON public.access_events FOR EACH STATEMENT EXECUTE FUNCTION renew_redis_epoch();
comment on table access_events is 'Outbox of invalidation events: a row stays until Redis has confirmed the invalidation.';
comment on column access_events.keys is 'Invalidation keys; {*} stands for everything.';
comment on column access_events.writer is 'The instance that waits for acknowledgements; null: none does.';
comment on column access_events.position is 'Position of the event, once it was sent.';
comment on column access_events.ordinal is 'Order in which the events were recorded: a transaction that saw or waited for the changes of another has a higher one.';

create table access_heat (
  user_id uuid not null,
  resource_type text not null,
  resource_id uuid not null,
  hits double precision not null,
  last_at timestamp with time zone not null,
  constraint access_heat__pkey PRIMARY KEY (user_id, resource_type, resource_id),
  constraint access_heat__hits CHECK ((hits > (0)::double precision)),
  constraint access_heat__resource_type CHECK ((resource_type = ANY (ARRAY['project'::text, 'generation'::text])))
) with (fillfactor=80);
comment on table access_heat is 'How often a user accesses a resource: a sample, scaled up. Rows may be lost, and have no foreign keys so that writing them takes no locks elsewhere.';
comment on column access_heat.hits is 'Frequency at last_at. It decays when it is read (heat_left), so ageing writes nothing.';

create table access_rules (
  kind text not null,
  name text not null,
  actions integer not null,
  constraint access_rules__pkey PRIMARY KEY (kind, name),
  constraint access_rules__kind CHECK ((kind = ANY (ARRAY['role'::text, 'access_level'::text, 'owner'::text])))
);
comment on table access_rules is 'The matrix of roles, access levels and actions. The program writes it at its start.';

create table account_erasures (
  user_id uuid not null,
  requested_at timestamp with time zone not null,
  constraint account_erasures_pkey PRIMARY KEY (user_id),
  constraint account_erasures_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id)
);
CREATE INDEX account_erasures__requested_at ON public.account_erasures USING btree (requested_at);
comment on table account_erasures is 'Closed accounts of which uploads, generations, projects and records are still to be erased. A row is deleted once nothing is left.';

create table account_usage (
  user_id uuid not null,
  media_bytes bigint default 0 not null,
  projects bigint default 0 not null,
  constraint account_usage_pkey PRIMARY KEY (user_id)
);
CREATE TRIGGER given_rows BEFORE INSERT ON public.account_usage FOR EACH ROW WHEN ((current_setting('velro.counts_usage'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER given_statement BEFORE INSERT ON public.account_usage FOR EACH STATEMENT WHEN ((current_setting('velro.counts_usage'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION skip_computed_rows();
comment on table account_usage is 'What accounts hold, as far as it is not counted in an index. Maintained by triggers. No foreign key, because its lock would break the lock order.';
comment on column account_usage.media_bytes is 'Bytes of the uploads and outputs of the account, without thumbnails.';
comment on column account_usage.projects is 'Projects that the account owns.';

create table alert_evaluator (
  only_row boolean default true not null,
  holder text not null,
  lease_until timestamp with time zone not null,
  constraint alert_evaluator_pkey PRIMARY KEY (only_row),
  constraint alert_evaluator__only_row CHECK (only_row)
);
comment on table alert_evaluator is 'The instance with the lease opens and clears alerts. At most one row.';

create table alerts (
  id uuid not null,
  metric text not null,
  severity text not null,
  value double precision not null,
  target double precision not null,
  samples bigint not null,
  opened_at timestamp with time zone not null,
  raised_at timestamp with time zone,
  cleared_at timestamp with time zone,
  constraint alerts_pkey PRIMARY KEY (id),
  constraint alerts__cleared_after_opened CHECK ((cleared_at >= opened_at)),
  constraint alerts__severity CHECK ((severity = ANY (ARRAY['warning'::text, 'critical'::text])))
);
CREATE INDEX alerts__cleared_at ON public.alerts USING btree (cleared_at);
CREATE UNIQUE INDEX alerts__open ON public.alerts USING btree (metric) WHERE (cleared_at IS NULL);
CREATE TRIGGER webhooks_by_clearing AFTER UPDATE OF cleared_at ON public.alerts FOR EACH ROW WHEN (((old.cleared_at IS NULL) AND (new.cleared_at IS NOT NULL))) EXECUTE FUNCTION webhook_on_alert('alert.cleared');
CREATE TRIGGER webhooks_by_insert AFTER INSERT ON public.alerts FOR EACH ROW EXECUTE FUNCTION webhook_on_alert('alert.opened');
CREATE TRIGGER webhooks_by_severity AFTER UPDATE OF severity ON public.alerts FOR EACH ROW WHEN ((old.severity IS DISTINCT FROM new.severity)) EXECUTE FUNCTION webhook_on_alert('alert.raised');
comment on table alerts is 'Metrics that were far above their targets, of all instances together. Names no person.';
comment on column alerts.metric is 'An open alert is the only one of its metric.';
comment on column alerts.severity is 'The highest since it opened.';
comment on column alerts.value is 'The highest value since it opened: milliseconds of the P95, or a share of misses or errors.';
comment on column alerts.samples is 'In the window in which it opened, or in which its severity rose.';
comment on column alerts.cleared_at is 'Null: it is open.';

create table audit_checkpoints (
  month timestamp with time zone not null,
  sequence bigint not null,
  token text not null,
  constraint audit_checkpoints_pkey PRIMARY KEY (month, sequence)
);
comment on table audit_checkpoints is 'Signed links in regular distances, which narrow down where a chain was computed again.';

create table audit_cursor (
  singleton boolean default true not null,
  xid xid8 not null,
  server text not null,
  id uuid default '00000000-0000-0000-0000-000000000000'::uuid not null,
  constraint audit_cursor_pkey PRIMARY KEY (singleton),
  constraint audit_cursor__singleton CHECK (singleton)
);
comment on table audit_cursor is 'Every event up to this one, in the order of transaction and id, is linked. One row.';
comment on column audit_cursor.server is 'The server and database that the transaction ids are of: a restored copy counts anew.';

create table audit_denials (
  minute timestamp with time zone default date_trunc('minute'::text, clock_timestamp()) not null,
  id bigint generated always as identity not null,
  decisions integer not null,
  content text not null,
  constraint audit_denials_pkey PRIMARY KEY (minute, id)
);
comment on table audit_denials is 'Denied decisions of the current minute, as instances counted them. Later they become events.';
comment on column audit_denials.decisions is 'How many different decisions the row holds.';
comment on column audit_denials.content is 'JSON: who asked about whom, from where, and what was denied. Stored without compression: it consists of ids and is deleted after a minute.';

create table audit_details (
  event_id uuid not null,
  at timestamp with time zone not null,
  user_id uuid,
  salt bytea not null,
  details text not null,
  constraint audit_details_pkey PRIMARY KEY (event_id, at)
) partition by RANGE (at);
CREATE INDEX audit_details__user ON ONLY public.audit_details USING btree (user_id) WHERE (user_id IS NOT NULL);
comment on table audit_details is 'Personal data of events: address, user agent, names. Deleted when the account is closed; the event keeps the hash.';
comment on column audit_details.user_id is 'Whose personal data it is: the actor, else the account concerned. Null where neither is known.';
comment on column audit_details.salt is '16 random bytes, without which the hash of an address could be found by trying all addresses.';
comment on column audit_details.details is 'JSON. Text, because the hash covers its bytes.';

create table audit_events (
  id uuid not null,
  at timestamp with time zone default clock_timestamp() not null,
  xid xid8 default pg_current_xact_id() not null,
  action text not null,
  actor_kind text not null,
  actor_id uuid,
  service_key_id uuid,
  session_id uuid,
  target_type text not null,
  target_id text,
  user_id uuid,
  team_id uuid,
  request_id text not null,
  before json,
  after json,
  count integer default 1 not null,
  details_hash bytea,
  mac bytea not null,
  constraint audit_events_pkey PRIMARY KEY (id, at)
) partition by RANGE (at);
CREATE INDEX audit_events__actor ON ONLY public.audit_events USING btree (actor_id, id) WHERE (actor_id IS NOT NULL);
CREATE INDEX audit_events__denied_ids ON ONLY public.audit_events USING gin (audit_denied_ids(after)) WHERE ((action = 'access.denied'::text) AND (target_type = 'user'::text));
CREATE INDEX audit_events__target ON ONLY public.audit_events USING btree (target_id, id) WHERE (target_id IS NOT NULL);
CREATE INDEX audit_events__team ON ONLY public.audit_events USING btree (team_id, id) WHERE (team_id IS NOT NULL);
CREATE INDEX audit_events__user ON ONLY public.audit_events USING btree (user_id, id) WHERE (user_id IS NOT NULL);
CREATE INDEX audit_events__xid ON ONLY public.audit_events USING btree (xid, id);
comment on table audit_events is 'The audit log: who did what to which resource. Rows are only added. They name people by id alone.';
comment on column audit_events.at is 'When the row was inserted, by the clock of Postgres. Decides the partition and the chain: both are by month in UTC.';
comment on column audit_events.xid is 'The transaction that inserted the row. Rows of transactions that are all over are linked in this order.';
comment on column audit_events.actor_kind is 'user, service, system, or anonymous: a client that did not sign in.';
comment on column audit_events.service_key_id is 'The service that acted, or acted for the user.';
comment on column audit_events.target_id is 'Of the resource. Text, because a flag, a mode or a limit has a name in place of a UUID.';
comment on column audit_events.user_id is 'The account that the event concerns, where it is not that of the actor.';
comment on column audit_events.team_id is 'The team that the event concerns. Its owner may read the event.';
comment on column audit_events.before is 'Values before the change, without personal data and secrets. json, because the chain covers the text.';
comment on column audit_events.after is 'Values after the change, without personal data and secrets.';
comment on column audit_events.count is 'How many equal decisions of one minute the row stands for.';
comment on column audit_events.details_hash is 'SHA-256 of salt and details of the row in audit_details. Null for an event without details.';
comment on column audit_events.mac is 'HMAC-SHA-256 of the values that the program gave, under a wrapped key: a row that another program inserted has none.';

create table audit_heads (
  month timestamp with time zone not null,
  token text not null,
  dropped_at timestamp with time zone,
  constraint audit_heads_pkey PRIMARY KEY (month)
);
comment on table audit_heads is 'The newest signed head of the chain of each month. Heads of dropped months stay.';
comment on column audit_heads.token is 'Compact JWS by a signing key: month, sequence and hash of the newest link, and the head of the month before at the first link.';

create table audit_keys (
  kid text not null,
  public_jwk jsonb not null,
  mac bytea not null,
  created_at timestamp with time zone default now() not null,
  constraint audit_keys_pkey PRIMARY KEY (kid)
);
comment on table audit_keys is 'Public halves of the signing keys that signed heads, kept after the signing keys are gone.';
comment on column audit_keys.mac is 'HMAC-SHA-256 of kid and key, under a wrapped key: another program can add no key.';

create table audit_links (
  at timestamp with time zone not null,
  sequence bigint not null,
  event_id uuid not null,
  event_at timestamp with time zone not null,
  row_hash bytea not null,
  hash bytea not null,
  constraint audit_links_pkey PRIMARY KEY (at, sequence)
) partition by RANGE (at);
CREATE INDEX audit_links__event ON ONLY public.audit_links USING btree (event_id);
comment on table audit_links is 'The hash chain over the events of each month, in the order in which they were linked.';
comment on column audit_links.at is 'The first moment of the month in UTC, which names the chain.';
comment on column audit_links.sequence is 'Position in the chain of the month, from 1, without gaps.';
comment on column audit_links.row_hash is 'SHA-256 of the event.';
comment on column audit_links.hash is 'SHA-256 of month, sequence, the hash of the link before and row_hash.';

create table blocks (
  id uuid not null,
  kind text not null,
  network cidr,
  user_id uuid,
  key_id uuid,
  source text not null,
  reason text not null,
  created_by uuid,
  created_at timestamp with time zone default now() not null,
  expires_at timestamp with time zone not null,
  constraint blocks_pkey PRIMARY KEY (id),
  constraint blocks__key_id UNIQUE (key_id, source),
  constraint blocks__network UNIQUE (network, source),
  constraint blocks__user_id UNIQUE (user_id, source),
  constraint blocks_created_by_fkey FOREIGN KEY (created_by) REFERENCES users(id),
  constraint blocks_key_id_fkey FOREIGN KEY (key_id) REFERENCES service_keys(id) ON DELETE CASCADE,
  constraint blocks_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint blocks__kind CHECK ((kind = ANY (ARRAY['address'::text, 'network'::text, 'user'::text, 'key'::text]))),
  constraint blocks__reason_length CHECK ((length(reason) <= 500)),
  constraint blocks__source CHECK ((source = ANY (ARRAY['operator'::text, 'anomaly'::text]))),
  constraint blocks__target CHECK (((num_nonnulls(network, user_id, key_id) = 1) AND ((kind = 'user'::text) = (user_id IS NOT NULL)) AND ((kind = 'key'::text) = (key_id IS NOT NULL))))
);
CREATE INDEX blocks__expires_at ON public.blocks USING btree (expires_at);
CREATE TRIGGER applied_by_delete AFTER DELETE ON public.blocks REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION apply_blocks();
CREATE TRIGGER applied_by_insert AFTER INSERT ON public.blocks REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION apply_blocks();
CREATE TRIGGER applied_by_update_of_new AFTER UPDATE ON public.blocks REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION apply_blocks();
CREATE TRIGGER applied_by_update_of_old AFTER UPDATE ON public.blocks REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION apply_blocks();
comment on table blocks is 'What is blocked now. A row is deleted when the block is removed or has expired, and a block of an account with the account.';
comment on column blocks.network is 'Of an address: itself, or the /64 network of an IPv6 address.';
comment on column blocks.source is 'Who blocked it: an operator, or the detection of anomalies.';
comment on column blocks.created_by is 'The operator; null for the detection of anomalies.';

create table breaker_policies (
  dependency text not null,
  mode text not null,
  failures integer not null,
  probe_after_ms integer not null,
  updated_at timestamp with time zone default now() not null,
  constraint breaker_policies_pkey PRIMARY KEY (dependency),
  constraint breaker_policies__failures CHECK (((failures >= 1) AND (failures <= 1000))),
  constraint breaker_policies__mode CHECK ((mode = ANY (ARRAY['automatic'::text, 'closed'::text, 'open'::text]))),
  constraint breaker_policies__probe_after_ms CHECK (((probe_after_ms >= 100) AND (probe_after_ms <= 600000)))
);
comment on table breaker_policies is 'Policies of circuit breakers that operators have set. A dependency without a row has its default.';
comment on column breaker_policies.failures is 'Consecutive failures that open a breaker.';
comment on column breaker_policies.probe_after_ms is 'How long after a breaker opened, or a probe failed, one call is sent as a probe, in milliseconds.';

create table credit_balances (
  user_id uuid not null,
  balance bigint not null,
  constraint credit_balances_pkey PRIMARY KEY (user_id),
  constraint credit_balances_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id),
  constraint credit_balances__balance CHECK ((balance >= 0))
);
CREATE TRIGGER given_rows BEFORE INSERT ON public.credit_balances FOR EACH ROW WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER given_statement BEFORE INSERT ON public.credit_balances FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON public.credit_balances FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER only_by_ledger BEFORE DELETE OR UPDATE ON public.credit_balances FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION refuse_change();
comment on table credit_balances is 'The sum of the ledger entries of each user, maintained by triggers and never negative.';

create table credit_ledger (
  id uuid not null,
  user_id uuid not null,
  kind text not null,
  amount integer not null,
  balance_after bigint not null,
  generation_id uuid,
  note text default ''::text not null,
  created_by uuid,
  created_at timestamp with time zone default clock_timestamp() not null,
  constraint credit_ledger_pkey PRIMARY KEY (id),
  constraint credit_ledger_created_by_fkey FOREIGN KEY (created_by) REFERENCES users(id),
  constraint credit_ledger_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id),
  constraint credit_ledger__amount CHECK (
CASE kind
    WHEN 'reserve'::text THEN (amount <= 0)
    WHEN 'settle'::text THEN (amount = 0)
    WHEN 'refund'::text THEN (amount >= 0)
    ELSE (amount > 0)
END),
  constraint credit_ledger__created_by CHECK (((kind = 'grant'::text) = (created_by IS NOT NULL))),
  constraint credit_ledger__generation_id CHECK (((kind = ANY (ARRAY['reserve'::text, 'settle'::text, 'refund'::text])) = (generation_id IS NOT NULL))),
  constraint credit_ledger__kind CHECK ((kind = ANY (ARRAY['welcome'::text, 'grant'::text, 'reserve'::text, 'settle'::text, 'refund'::text]))),
  constraint credit_ledger__note_length CHECK ((length(note) <= 500))
);
CREATE UNIQUE INDEX credit_ledger__closed_once ON public.credit_ledger USING btree (generation_id) WHERE (kind = ANY (ARRAY['settle'::text, 'refund'::text]));
CREATE UNIQUE INDEX credit_ledger__reserved_once ON public.credit_ledger USING btree (generation_id) WHERE (kind = 'reserve'::text);
CREATE INDEX credit_ledger__user_id ON public.credit_ledger USING btree (user_id, id);
CREATE UNIQUE INDEX credit_ledger__welcomed_once ON public.credit_ledger USING btree (user_id) WHERE (kind = 'welcome'::text);
CREATE TRIGGER check_restored_entries AFTER INSERT ON public.credit_ledger REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((current_setting('velro.restored_entries'::text, true) = 'on'::text)) EXECUTE FUNCTION check_restored_entries();
CREATE TRIGGER keep_credit_balance AFTER INSERT ON public.credit_ledger FOR EACH ROW EXECUTE FUNCTION keep_credit_balance();
CREATE TRIGGER lock_credit_balance BEFORE INSERT ON public.credit_ledger FOR EACH ROW EXECUTE FUNCTION lock_credit_balance();
CREATE TRIGGER only_grows BEFORE DELETE OR UPDATE OR TRUNCATE ON public.credit_ledger FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
comment on table credit_ledger is 'Every change of a balance. Append-only.';
comment on column credit_ledger.amount is 'Added to the balance. reserve subtracts the price, refund returns it, settle is 0 and makes it final.';
comment on column credit_ledger.generation_id is 'No foreign key: the entry outlives the generation.';
comment on column credit_ledger.created_by is 'The operator who granted the credits.';

create table event_positions (
  only_row boolean default true not null,
  position bigint not null,
  constraint event_positions_pkey PRIMARY KEY (only_row),
  constraint event_positions__only_row CHECK (only_row)
) with (fillfactor=10, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=200);
comment on table event_positions is 'One row: how many invalidation events were committed.';
comment on column event_positions.position is 'Position of the newest committed event. Each event increments it when it commits.';

create table feature_flag_versions (
  id uuid not null,
  name text not null,
  version integer not null,
  definition jsonb,
  description text not null,
  restored_from integer,
  changed_at timestamp with time zone not null,
  changed_by uuid not null,
  constraint feature_flag_versions_pkey PRIMARY KEY (id),
  constraint feature_flag_versions__once UNIQUE (name, version),
  constraint feature_flag_versions_changed_by_fkey FOREIGN KEY (changed_by) REFERENCES users(id),
  constraint feature_flag_versions__definition CHECK (((definition IS NULL) OR (jsonb_typeof(definition) = 'object'::text))),
  constraint feature_flag_versions__name CHECK (((name ~ '^[a-z0-9][a-z0-9-]*$'::text) AND (length(name) <= 64))),
  constraint feature_flag_versions__restored_from CHECK ((restored_from < version)),
  constraint feature_flag_versions__version CHECK ((version > 0))
);
comment on table feature_flag_versions is 'What each feature flag was, the newest version being the one in force. Any of them can be restored.';
comment on column feature_flag_versions.definition is 'Null: the flag was removed by this version.';
comment on column feature_flag_versions.restored_from is 'The version whose definition this one has again. Null: it is no restored one.';

create table feature_flags (
  id uuid not null,
  name text not null,
  version integer not null,
  definition jsonb not null,
  description text not null,
  updated_at timestamp with time zone not null,
  updated_by uuid not null,
  constraint feature_flags_pkey PRIMARY KEY (id),
  constraint feature_flags__name_once UNIQUE (name),
  constraint feature_flags_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES users(id),
  constraint feature_flags__definition CHECK ((jsonb_typeof(definition) = 'object'::text)),
  constraint feature_flags__description CHECK ((length(description) <= 500)),
  constraint feature_flags__name CHECK (((name ~ '^[a-z0-9][a-z0-9-]*$'::text) AND (length(name) <= 64))),
  constraint feature_flags__version CHECK ((version > 0))
);
CREATE TRIGGER touched_by_change AFTER INSERT OR DELETE OR UPDATE ON public.feature_flags FOR EACH STATEMENT EXECUTE FUNCTION note_changed_feature_flags();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.feature_flags FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
comment on table feature_flags is 'Features that are on for some people: for a share of them, for plans, teams and single users.';
comment on column feature_flags.definition is 'For whom it is on; see src/access/policy/facts/feature-flags.ts. Ids of accounts are removed from it when they are closed.';

create table flags (
  name text not null,
  enabled boolean not null,
  updated_at timestamp with time zone default now() not null,
  updated_by uuid,
  constraint flags_pkey PRIMARY KEY (name),
  constraint flags_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES users(id),
  constraint flags__name CHECK ((name = ANY (ARRAY['l1'::text, 'l2'::text, 'l3'::text, 'warm_up'::text])))
);
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.flags FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_insert AFTER INSERT ON public.flags REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_flags();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.flags FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.flags REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_flags();
comment on table flags is 'Switches for operators. A flag without a row is on.';

create table former_addresses (
  email text not null,
  user_id uuid not null,
  expires_at timestamp with time zone not null,
  constraint former_addresses_pkey PRIMARY KEY (email),
  constraint former_addresses_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
);
CREATE INDEX former_addresses__expires_at ON public.former_addresses USING btree (expires_at);
CREATE INDEX former_addresses__user_id ON public.former_addresses USING btree (user_id);
comment on table former_addresses is 'E-mail addresses that an account had until lately. Until expires_at their owners can undo the change, so no other account can get them.';

create table generation_favorites (
  user_id uuid not null,
  generation_id uuid not null,
  created_at timestamp with time zone default now() not null,
  constraint generation_favorites__pkey PRIMARY KEY (user_id, generation_id),
  constraint generation_favorites__generation_id FOREIGN KEY (generation_id) REFERENCES generations(id) ON DELETE CASCADE,
  constraint generation_favorites__user_id FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
);
CREATE INDEX generation_favorites__by_generation ON public.generation_favorites USING btree (generation_id);
comment on table generation_favorites is 'Which generations a user has marked as favorites.';

create table generation_jobs (
  generation_id uuid not null,
  priority integer not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  run_after timestamp with time zone default clock_timestamp() not null,
  attempt integer default 0 not null,
  failures integer default 0 not null,
  progress real default 0 not null,
  worker text,
  lease_until timestamp with time zone,
  remote jsonb,
  reference_sha256 text,
  owner_id uuid not null,
  turn bigint not null,
  reserved_bytes bigint default 0 not null,
  constraint generation_jobs_pkey PRIMARY KEY (generation_id),
  constraint generation_jobs_generation_id_fkey FOREIGN KEY (generation_id) REFERENCES generations(id) ON DELETE CASCADE,
  constraint generation_jobs_reference_sha256_fkey FOREIGN KEY (reference_sha256) REFERENCES media_objects(sha256),
  constraint generation_jobs__leased CHECK (((worker IS NULL) = (lease_until IS NULL))),
  constraint generation_jobs__progress CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
  constraint generation_jobs__reserved_bytes CHECK ((reserved_bytes >= 0))
);
CREATE INDEX generation_jobs__next ON public.generation_jobs USING btree (priority, created_at, generation_id);
CREATE INDEX generation_jobs__owner_id ON public.generation_jobs USING btree (owner_id, priority, turn);
CREATE INDEX generation_jobs__reference_sha256 ON public.generation_jobs USING btree (reference_sha256) WHERE (reference_sha256 IS NOT NULL);
CREATE INDEX generation_jobs__turn ON public.generation_jobs USING btree (priority, turn, created_at, generation_id);
CREATE INDEX generation_jobs__turn_under_way ON public.generation_jobs USING btree (priority, turn) WHERE (worker IS NOT NULL);
CREATE TRIGGER give_turn BEFORE INSERT ON public.generation_jobs FOR EACH ROW EXECUTE FUNCTION give_turn();
CREATE TRIGGER orphans AFTER DELETE ON public.generation_jobs FOR EACH ROW WHEN ((old.reference_sha256 IS NOT NULL)) EXECUTE FUNCTION orphans_of_job();
comment on table generation_jobs is 'One row for each unfinished generation. A worker holds it by a lease.';
comment on column generation_jobs.priority is 'By the plan of the owner when the job was accepted; the lowest runs first.';
comment on column generation_jobs.attempt is 'Fencing number of the lease: a result of an earlier attempt is refused.';
comment on column generation_jobs.failures is 'Failed attempts. An attempt whose worker died does not count.';
comment on column generation_jobs.progress is 'Progress of the current attempt, from 0 to 1.';
comment on column generation_jobs.remote is 'The order at a remote provider, so that it is not placed twice.';
comment on column generation_jobs.reference_sha256 is 'The reference object. It stays stored until the job is over.';
comment on column generation_jobs.owner_id is 'The owner of the generation, who takes turns with others.';
comment on column generation_jobs.turn is 'Within a priority the lowest turn runs first, then the oldest job.';
comment on column generation_jobs.reserved_bytes is 'The most that its outputs may take, counted as stored while the job is unfinished.';

create table generations (
  id uuid not null,
  owner_id uuid not null,
  project_id uuid,
  model text not null,
  prompt text not null,
  status text default 'queued'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  title text default ''::text not null,
  intent text default 'original'::text not null,
  ancestor_ids uuid[] default '{}'::uuid[] not null,
  negative_prompt text default ''::text not null,
  parameters jsonb default '{}'::jsonb not null,
  outputs integer default 1 not null,
  price integer default 0 not null,
  failure text,
  started_at timestamp with time zone,
  finished_at timestamp with time zone,
  reference_media_id uuid,
  failure_detail text,
  constraint generations_pkey PRIMARY KEY (id),
  constraint generations_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint generations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE SET NULL,
  constraint generations_reference_media_id_fkey FOREIGN KEY (reference_media_id) REFERENCES media(id) ON DELETE SET NULL,
  constraint generations__depth CHECK ((cardinality(ancestor_ids) <= 64)),
  constraint generations__failure CHECK (((failure IS NOT NULL) = (status = 'failed'::text))),
  constraint generations__intent CHECK ((intent = ANY (ARRAY['original'::text, 'improve'::text, 'iterate'::text, 'fork'::text, 'remix'::text]))),
  constraint generations__model_length CHECK (((length(model) >= 1) AND (length(model) <= 128))),
  constraint generations__negative_prompt_length CHECK ((length(negative_prompt) <= 4000)),
  constraint generations__original_has_no_parent CHECK (((intent = 'original'::text) = (cardinality(ancestor_ids) = 0))),
  constraint generations__outputs CHECK (((outputs >= 1) AND (outputs <= 16))),
  constraint generations__price CHECK ((price >= 0)),
  constraint generations__prompt_length CHECK (((length(prompt) >= 1) AND (length(prompt) <= 4000))),
  constraint generations__status CHECK ((status = ANY (ARRAY['queued'::text, 'processing'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
  constraint generations__title_length CHECK ((length(title) <= 200))
);
CREATE INDEX generations__owner_id ON public.generations USING btree (owner_id, id);
CREATE INDEX generations__project_id ON public.generations USING btree (project_id, id) WHERE (project_id IS NOT NULL);
CREATE INDEX generations__reference_media_id ON public.generations USING btree (reference_media_id) WHERE (reference_media_id IS NOT NULL);
CREATE TRIGGER listed_by_delete AFTER DELETE ON public.generations FOR EACH ROW WHEN ((old.project_id IS NOT NULL)) EXECUTE FUNCTION list_changed_generation();
CREATE TRIGGER listed_by_insert AFTER INSERT ON public.generations REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION list_new_generations();
CREATE TRIGGER listed_by_truncate AFTER TRUNCATE ON public.generations FOR EACH STATEMENT EXECUTE FUNCTION unlist_generations();
CREATE TRIGGER listed_by_update AFTER UPDATE OF id, project_id ON public.generations FOR EACH ROW WHEN (((old.id IS DISTINCT FROM new.id) OR (old.project_id IS DISTINCT FROM new.project_id))) EXECUTE FUNCTION list_changed_generation();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.generations REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('generation');
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.generations FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.generations REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_generations();
CREATE TRIGGER webhooks_by_status AFTER UPDATE OF status ON public.generations FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (new.status = ANY (ARRAY['completed'::text, 'failed'::text])))) EXECUTE FUNCTION webhook_on_generation_end();
comment on table generations is 'Generations: the order, its state and its lineage.';
comment on column generations.project_id is 'Null: outside a project. Deleting a project leaves its generations to their owners.';
comment on column generations.ancestor_ids is 'Ids of all ancestors, nearest first, fixed at creation. A deleted ancestor stays listed.';
comment on column generations.parameters is 'All parameters of the model, defaults included.';
comment on column generations.price is 'In credits, for all outputs together.';
comment on column generations.failure is 'Why it failed; a code of the program.';
comment on column generations.started_at is 'When the first attempt began.';
comment on column generations.failure_detail is 'Why an output of the provider was refused; a code of the program. Null for other failures.';

create table idempotency_keys (
  user_id uuid not null,
  route text not null,
  key text not null,
  request_hash bytea not null,
  status smallint,
  answer text,
  created_at timestamp with time zone not null,
  constraint idempotency_keys_pkey PRIMARY KEY (user_id, route, key),
  constraint idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint idempotency_keys__key_length CHECK (((length(key) >= 1) AND (length(key) <= 255))),
  constraint idempotency_keys__request_hash_length CHECK ((length(request_hash) = 32))
);
CREATE INDEX idempotency_keys__created_at ON public.idempotency_keys USING btree (created_at);
comment on table idempotency_keys is 'Responses to requests with an Idempotency-Key, kept for a day. The row is written in the transaction of the request.';
comment on column idempotency_keys.request_hash is 'SHA-256 of the request body with sorted members.';
comment on column idempotency_keys.status is 'Status of the response. Null only inside the transaction of the request.';
comment on column idempotency_keys.answer is 'Body of the response as text, so that a replay is equal byte by byte.';

create table identity_provider_sign_ins (
  state_hash bytea not null,
  code_hash bytea,
  purpose text not null,
  user_id uuid,
  code_challenge text not null,
  encrypted_identity bytea,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  used_at timestamp with time zone,
  constraint identity_provider_sign_ins_pkey PRIMARY KEY (state_hash),
  constraint identity_provider_sign_ins__code_hash UNIQUE (code_hash),
  constraint identity_provider_sign_ins__hash_lengths CHECK (((length(state_hash) = 32) AND (length(code_hash) = 32))),
  constraint identity_provider_sign_ins__purpose CHECK ((purpose = ANY (ARRAY['sign_in'::text, 'link'::text, 'reauthenticate'::text]))),
  constraint identity_provider_sign_ins__user CHECK (((purpose = 'sign_in'::text) = (user_id IS NULL)))
);
CREATE INDEX identity_provider_sign_ins__expires_at ON public.identity_provider_sign_ins USING btree (expires_at);
comment on table identity_provider_sign_ins is 'People who returned from an identity provider. Each state returns once, and its code is used once. Kept for an hour.';
comment on column identity_provider_sign_ins.code_hash is 'SHA-256 of the code that the client got. Null while the provider is asked.';
comment on column identity_provider_sign_ins.user_id is 'The account that the code is for, unless it is for a sign-in. No foreign key: the row is short-lived.';
comment on column identity_provider_sign_ins.code_challenge is 'S256 of the verifier that the client keeps.';
comment on column identity_provider_sign_ins.encrypted_identity is 'The identity, encrypted under a key derived from SECRET. Null once the code was used.';

create table incidents (
  id uuid not null,
  kind text not null,
  severity text not null,
  subject_type text not null,
  subject_id text not null,
  count bigint default 1 not null,
  first_seen_at timestamp with time zone not null,
  last_seen_at timestamp with time zone not null,
  evidence jsonb default '[]'::jsonb not null,
  assignee_id uuid,
  opened_by uuid,
  note text default ''::text not null,
  closed_at timestamp with time zone,
  closed_by uuid,
  resolution text,
  constraint incidents_pkey PRIMARY KEY (id),
  constraint incidents_assignee_id_fkey FOREIGN KEY (assignee_id) REFERENCES users(id),
  constraint incidents_closed_by_fkey FOREIGN KEY (closed_by) REFERENCES users(id),
  constraint incidents_opened_by_fkey FOREIGN KEY (opened_by) REFERENCES users(id),
  constraint incidents__closed CHECK ((((closed_at IS NULL) = (resolution IS NULL)) AND ((closed_by IS NULL) OR (closed_at IS NOT NULL)))),
  constraint incidents__count CHECK ((count > 0)),
  constraint incidents__evidence CHECK (((jsonb_typeof(evidence) = 'array'::text) AND (jsonb_array_length(evidence) <= 10))),
  constraint incidents__kind CHECK (((kind ~ '^[a-z_]+\.[a-z_]+$'::text) AND (length(kind) <= 64))),
  constraint incidents__note CHECK ((length(note) <= 2000)),
  constraint incidents__resolution CHECK ((resolution = ANY (ARRAY['resolved'::text, 'false_positive'::text, 'ignored'::text]))),
  constraint incidents__seen CHECK ((first_seen_at <= last_seen_at)),
  constraint incidents__severity CHECK ((severity = ANY (ARRAY['low'::text, 'medium'::text, 'high'::text, 'critical'::text]))),
  constraint incidents__subject_id CHECK ((length(subject_id) <= 200)),
  constraint incidents__subject_type CHECK (((subject_type ~ '^[a-z_]+$'::text) AND (length(subject_type) <= 32)))
);
CREATE INDEX incidents__assignee ON public.incidents USING btree (assignee_id, id);
CREATE INDEX incidents__closed_at ON public.incidents USING btree (closed_at);
CREATE INDEX incidents__kind_id ON public.incidents USING btree (kind, id);
CREATE UNIQUE INDEX incidents__one_open ON public.incidents USING btree (kind, subject_type, subject_id) WHERE (closed_at IS NULL);
CREATE INDEX incidents__open ON public.incidents USING btree (id) WHERE (closed_at IS NULL);
CREATE INDEX incidents__severity_id ON public.incidents USING btree (severity, id);
CREATE INDEX incidents__subject ON public.incidents USING btree (subject_type, subject_id, id);
comment on table incidents is 'What the service or an operator found suspicious, until an operator closes it. Those of one kind about one subject are one row while it is open.';
comment on column incidents.subject_id is 'The id of a user, session, key or team; an address or network; the name of a dependency.';
comment on column incidents.count is 'How often it was reported.';
comment on column incidents.evidence is 'What was seen: the first report and the latest ones. Emptied when the account of its subject is closed.';
comment on column incidents.opened_by is 'The operator who opened it. Null: the service did.';
comment on column incidents.note is 'What operators wrote about it.';

create table instance_figures (
  instance text not null,
  taken_at timestamp with time zone default now() not null,
  content text not null,
  constraint instance_figures_pkey PRIMARY KEY (instance)
) with (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=100);
comment on table instance_figures is 'What each instance has measured, where the instances have no Redis in common. Replaced each second, and removed a minute after the instance has ended.';
comment on column instance_figures.content is 'JSON with histograms and counts, and a hash that authenticates them. Names no person.';

create table known_devices (
  token_hash bytea not null,
  user_id uuid not null,
  session_id uuid,
  created_at timestamp with time zone not null,
  last_used_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  constraint known_devices_pkey PRIMARY KEY (token_hash),
  constraint known_devices_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions(id) ON DELETE SET NULL,
  constraint known_devices_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint known_devices__token_hash_length CHECK ((length(token_hash) = 32))
);
CREATE INDEX known_devices__expires_at ON public.known_devices USING btree (expires_at);
CREATE INDEX known_devices__session_id ON public.known_devices USING btree (session_id) WHERE (session_id IS NOT NULL);
CREATE INDEX known_devices__user_id ON public.known_devices USING btree (user_id, last_used_at);
comment on table known_devices is 'Devices on which an account has signed in. Failed sign-ins elsewhere do not lock them out. Their tokens alone are no credential.';
comment on column known_devices.token_hash is 'SHA-256 of the device token.';
comment on column known_devices.session_id is 'The session that the last sign-in with this token opened. Null once that session is purged.';

create table linked_identities (
  id uuid not null,
  user_id uuid not null,
  provider_id text not null,
  issuer text not null,
  subject text not null,
  email text,
  created_at timestamp with time zone not null,
  last_used_at timestamp with time zone not null,
  constraint linked_identities_pkey PRIMARY KEY (id),
  constraint linked_identities__subject UNIQUE (issuer, subject),
  constraint linked_identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint linked_identities__lengths CHECK (((length(provider_id) <= 32) AND (length(issuer) <= 512) AND (length(subject) <= 255) AND (length(email) <= 254)))
);
CREATE INDEX linked_identities__user_id ON public.linked_identities USING btree (user_id, id);
comment on table linked_identities is 'Identities at providers with which people sign in to their accounts. Deleted when the account is closed.';
comment on column linked_identities.provider_id is 'Name of the provider in the configuration when the identity was linked.';
comment on column linked_identities.issuer is 'Identifier of the provider. Issuer and subject together never mean another person.';
comment on column linked_identities.subject is 'Identifier of the person at the provider.';
comment on column linked_identities.email is 'Verified address at the provider when it was linked, for its owner to recognize. No account is found by it.';

create table mail_counts (
  recipient_hash bytea not null,
  template text not null,
  hour timestamp with time zone not null,
  mails integer not null,
  constraint mail_counts_pkey PRIMARY KEY (recipient_hash, template, hour),
  constraint mail_counts__recipient_hash_length CHECK ((length(recipient_hash) = 32))
);
CREATE INDEX mail_counts__hour ON public.mail_counts USING btree (hour);
comment on table mail_counts is 'How many mails of a kind an address got in an hour, so that no address is flooded. Kept for two hours.';
comment on column mail_counts.recipient_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';

create table media (
  id uuid not null,
  generation_id uuid,
  owner_id uuid not null,
  position integer,
  sha256 text not null,
  created_at timestamp with time zone default now() not null,
  constraint media_pkey PRIMARY KEY (id),
  constraint media__position UNIQUE (generation_id, "position"),
  constraint media_generation_id_fkey FOREIGN KEY (generation_id) REFERENCES generations(id) ON DELETE CASCADE,
  constraint media_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint media_sha256_fkey FOREIGN KEY (sha256) REFERENCES media_objects(sha256),
  constraint media__output CHECK (((generation_id IS NULL) = ("position" IS NULL)))
);
CREATE INDEX media__owner_id ON public.media USING btree (owner_id, id);
CREATE INDEX media__sha256 ON public.media USING btree (sha256);
CREATE INDEX media__uploads ON public.media USING btree (owner_id, id) WHERE (generation_id IS NULL);
CREATE TRIGGER orphans AFTER DELETE ON public.media REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION orphans_of_media();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.media REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('media');
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.media FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.media REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_media();
CREATE TRIGGER usage_by_delete AFTER DELETE ON public.media REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_media_bytes();
CREATE TRIGGER usage_by_insert AFTER INSERT ON public.media REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_media_bytes();
CREATE TRIGGER usage_by_truncate AFTER TRUNCATE ON public.media FOR EACH STATEMENT EXECUTE FUNCTION count_media_bytes();
CREATE TRIGGER usage_by_update AFTER UPDATE ON public.media REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_media_bytes();
comment on table media is 'Media: outputs of generations, and uploads (without a generation).';
comment on column media.position is 'Number of the output within its generation, from 0.';

create table media_claims (
  id uuid not null,
  sha256 text not null,
  claimed_at timestamp with time zone default clock_timestamp() not null,
  constraint media_claims_pkey PRIMARY KEY (id),
  constraint media_claims_sha256_fkey FOREIGN KEY (sha256) REFERENCES media_objects(sha256)
);
CREATE INDEX media_claims__claimed_at ON public.media_claims USING btree (claimed_at);
CREATE INDEX media_claims__sha256 ON public.media_claims USING btree (sha256);
comment on table media_claims is 'A claim protects an object while it is stored, until a media row refers to it. One older than an hour is abandoned.';

create table media_objects (
  sha256 text not null,
  content_type text not null,
  bytes integer not null,
  width integer not null,
  height integer not null,
  duration_ms integer,
  constraint media_objects_pkey PRIMARY KEY (sha256),
  constraint media_objects__bytes CHECK ((bytes > 0)),
  constraint media_objects__duration_ms CHECK ((duration_ms > 0)),
  constraint media_objects__film CHECK (((duration_ms IS NOT NULL) = (content_type ~~ 'video/%'::text))),
  constraint media_objects__sha256 CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
  constraint media_objects__size CHECK (((width > 0) AND (height > 0)))
);
comment on table media_objects is 'Stored objects, named by the SHA-256 of their bytes; several media can share one.';
comment on column media_objects.duration_ms is 'Null for pictures.';

create table media_orphans (
  sha256 text not null,
  since timestamp with time zone default clock_timestamp() not null,
  constraint media_orphans_pkey PRIMARY KEY (sha256),
  constraint media_orphans_sha256_fkey FOREIGN KEY (sha256) REFERENCES media_objects(sha256) ON DELETE CASCADE
);
CREATE INDEX media_orphans__since ON public.media_orphans USING btree (since);
comment on table media_orphans is 'Objects that lost a reference and are deleted if no other reference is left.';

create table notices (
  id uuid not null,
  user_id uuid not null,
  kind text not null,
  day date not null,
  created_at timestamp with time zone not null,
  details jsonb not null,
  sent_at timestamp with time zone,
  constraint notices_pkey PRIMARY KEY (id),
  constraint notices__once_a_day UNIQUE (user_id, kind, day),
  constraint notices_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint notices__kind CHECK ((kind ~ '^[a-z]+(_[a-z]+)*$'::text))
);
CREATE INDEX notices__created_at ON public.notices USING btree (created_at);
CREATE INDEX notices__unsent ON public.notices USING btree (created_at) WHERE (sent_at IS NULL);
comment on table notices is 'Messages to the owner of an account, at most one of each kind a day.';
comment on column notices.details is 'Where and when, never a secret.';
comment on column notices.sent_at is 'When its mail was enqueued. Null: it was not.';

create table one_time_tokens (
  token_hash bytea not null,
  purpose text not null,
  user_id uuid,
  data jsonb not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  used_at timestamp with time zone,
  constraint one_time_tokens_pkey PRIMARY KEY (token_hash),
  constraint one_time_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint one_time_tokens__purpose CHECK ((purpose ~ '^[a-z]+(_[a-z]+)*$'::text)),
  constraint one_time_tokens__token_hash_length CHECK ((length(token_hash) = 32))
);
CREATE INDEX one_time_tokens__expires_at ON public.one_time_tokens USING btree (expires_at);
CREATE INDEX one_time_tokens__user_id ON public.one_time_tokens USING btree (user_id, purpose) WHERE (user_id IS NOT NULL);
comment on table one_time_tokens is 'Tokens that are sent to a person and can be used once, each for one purpose.';
comment on column one_time_tokens.token_hash is 'SHA-256 of the purpose and the token.';
comment on column one_time_tokens.user_id is 'The account it is about. Null: none yet.';
comment on column one_time_tokens.data is 'What its use changes, such as a new e-mail address.';
comment on column one_time_tokens.used_at is 'When it was used or revoked. Null: it was not.';

create table order_cancellations (
  generation_id uuid not null,
  model text not null,
  remote jsonb not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  due_at timestamp with time zone default clock_timestamp() not null,
  constraint order_cancellations_pkey PRIMARY KEY (generation_id)
);
CREATE INDEX order_cancellations__due_at ON public.order_cancellations USING btree (due_at);
comment on table order_cancellations is 'Orders to cancel at a provider. Written in the transaction that removes the job, deleted when the provider has confirmed.';
comment on column order_cancellations.generation_id is 'No foreign key: the generation may be deleted.';

create table outbound_tasks (
  id uuid not null,
  kind text not null,
  payload jsonb not null,
  dedupe_key text,
  ordering_key text,
  user_id uuid,
  position bigint generated always as identity not null,
  created_at timestamp with time zone not null,
  run_at timestamp with time zone not null,
  attempt integer default 0 not null,
  failures integer default 0 not null,
  constraint outbound_tasks_pkey PRIMARY KEY (id),
  constraint outbound_tasks__dedupe_key UNIQUE (kind, dedupe_key),
  constraint outbound_tasks__kind CHECK ((kind ~ '^[a-z]+(_[a-z]+)*$'::text))
);
CREATE INDEX outbound_tasks__due ON public.outbound_tasks USING btree (kind, run_at, "position");
CREATE INDEX outbound_tasks__ordering_key ON public.outbound_tasks USING btree (kind, ordering_key, "position") WHERE (ordering_key IS NOT NULL);
CREATE INDEX outbound_tasks__user_id ON public.outbound_tasks USING btree (user_id) WHERE (user_id IS NOT NULL);
comment on table outbound_tasks is 'Work that reaches outside: inserted in the transaction of the change that causes it, deleted when it is done.';
comment on column outbound_tasks.payload is 'For the handler of the kind. Secrets and addresses in it are sealed.';
comment on column outbound_tasks.dedupe_key is 'Of the unfinished tasks of a kind at most one has it. Null: any number.';
comment on column outbound_tasks.ordering_key is 'Tasks of a kind with the same key run one after the other, by position. Null: in no order.';
comment on column outbound_tasks.user_id is 'Whose personal data it may hold: closing the account deletes it. No foreign key, because its lock would break the lock order.';
comment on column outbound_tasks.run_at is 'When it is due. A worker that leases it sets this to the end of its lease.';
comment on column outbound_tasks.attempt is 'Fencing token: a worker may finish only the attempt that it leased.';
comment on column outbound_tasks.failures is 'Attempts that failed. One whose lease expired does not count.';

create table passkeys (
  id uuid not null,
  user_id uuid not null,
  credential_id bytea not null,
  public_key bytea not null,
  counter bigint not null,
  transports text[] not null,
  backup_eligible boolean not null,
  backed_up boolean not null,
  name text not null,
  created_at timestamp with time zone not null,
  last_used_at timestamp with time zone,
  constraint passkeys_pkey PRIMARY KEY (id),
  constraint passkeys__credential_id UNIQUE (credential_id),
  constraint passkeys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint passkeys__counter CHECK ((counter >= 0)),
  constraint passkeys__credential_id_length CHECK (((length(credential_id) >= 1) AND (length(credential_id) <= 1023))),
  constraint passkeys__public_key_length CHECK (((length(public_key) >= 1) AND (length(public_key) <= 2048)))
);
CREATE INDEX passkeys__user_id ON public.passkeys USING btree (user_id);
CREATE TRIGGER second_factor_by_passkey AFTER INSERT OR DELETE OR UPDATE OF user_id ON public.passkeys FOR EACH ROW EXECUTE FUNCTION refresh_second_factor();
comment on table passkeys is 'Passkeys of accounts (Web Authentication, Level 3). They hold no secret.';
comment on column passkeys.public_key is 'COSE key.';
comment on column passkeys.counter is 'Of the last accepted signature; 0 where the authenticator does not count.';
comment on column passkeys.backup_eligible is 'Whether it may be copied to other devices of its owner.';
comment on column passkeys.backed_up is 'Whether it was, as of its last use.';

create table pending_welcomes (
  user_id uuid not null,
  network text not null,
  registered_at timestamp with time zone default clock_timestamp() not null,
  constraint pending_welcomes_pkey PRIMARY KEY (user_id),
  constraint pending_welcomes_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE
);
comment on table pending_welcomes is 'New accounts that get their welcome credits once the e-mail address is verified.';
comment on column pending_welcomes.network is 'Where the account was registered from: an IPv4 address, or the /64 network of an IPv6 address.';

create table project_access (
  user_id uuid not null,
  project_id uuid not null,
  actions integer not null,
  owned boolean default false not null,
  constraint project_access__pkey PRIMARY KEY (user_id, project_id) INCLUDE (actions),
  constraint project_access__actions CHECK ((actions > 0))
);
CREATE INDEX project_access__granted ON public.project_access USING btree (user_id, project_id) INCLUDE (actions) WHERE (NOT owned);
CREATE INDEX project_access__project_id ON public.project_access USING btree (project_id, user_id) INCLUDE (actions);
CREATE TRIGGER given_rows BEFORE INSERT ON public.project_access FOR EACH ROW WHEN ((current_setting('velro.computes_access'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER given_statement BEFORE INSERT ON public.project_access FOR EACH STATEMENT WHEN ((current_setting('velro.computes_access'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.project_access REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();
CREATE TRIGGER touched_by_insert AFTER INSERT ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.project_access FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_touched_grants();
CREATE TRIGGER webhooks_by_delete AFTER DELETE ON public.project_access REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_access();
CREATE TRIGGER webhooks_by_insert AFTER INSERT ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_access();
CREATE TRIGGER webhooks_by_update AFTER UPDATE ON public.project_access REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_access();
comment on table project_access is 'Effective access, maintained by triggers in the transaction of each change: never stale. No foreign keys, because their locks would break the lock order.';
comment on column project_access.actions is 'Bit set of the allowed actions. Both indexes include it, so a check reads only the index.';
comment on column project_access.owned is 'Whether the user owns the project. Grants through teams are cached apart from it.';

create table project_grants (
  project_id uuid not null,
  team_id uuid not null,
  access_level text not null,
  granted_by uuid not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint project_grants__pkey PRIMARY KEY (project_id, team_id),
  constraint project_grants_granted_by_fkey FOREIGN KEY (granted_by) REFERENCES users(id),
  constraint project_grants_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE,
  constraint project_grants_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint project_grants__access_level CHECK ((access_level = ANY (ARRAY['read'::text, 'write'::text, 'admin'::text])))
);
CREATE INDEX project_grants__team_id ON public.project_grants USING btree (team_id, project_id);
CREATE TRIGGER project_access AFTER INSERT OR DELETE OR UPDATE OF project_id, team_id, access_level ON public.project_grants FOR EACH ROW EXECUTE FUNCTION project_access_on_grant();
CREATE TRIGGER project_access_by_truncate AFTER TRUNCATE ON public.project_grants FOR EACH STATEMENT EXECUTE FUNCTION project_access_on_truncate();
CREATE TRIGGER webhooks_by_change AFTER INSERT OR DELETE OR UPDATE OF access_level ON public.project_grants FOR EACH ROW EXECUTE FUNCTION webhook_on_grant();
comment on table project_grants is 'Grants: the access level of a team on a project.';

create table projects (
  id uuid not null,
  owner_id uuid not null,
  name text not null,
  description text default ''::text not null,
  visibility text default 'private'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  allow_derivatives boolean default true not null,
  constraint projects_pkey PRIMARY KEY (id),
  constraint projects_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(id),
  constraint projects__description_length CHECK ((length(description) <= 4000)),
  constraint projects__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  constraint projects__visibility CHECK ((visibility = ANY (ARRAY['private'::text, 'team-only'::text, 'public'::text])))
);
CREATE INDEX projects__owner_id ON public.projects USING btree (owner_id, id);
CREATE INDEX projects__public ON public.projects USING btree (id) WHERE (visibility = 'public'::text);
CREATE TRIGGER listed_by_visibility AFTER UPDATE OF visibility ON public.projects FOR EACH ROW WHEN (((old.visibility = 'public'::text) <> (new.visibility = 'public'::text))) EXECUTE FUNCTION list_generations_of_project();
CREATE TRIGGER project_access AFTER INSERT OR UPDATE OF owner_id, visibility ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_on_project();
CREATE TRIGGER project_access_after AFTER DELETE ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_after_removal();
CREATE TRIGGER project_access_before BEFORE DELETE ON public.projects FOR EACH ROW EXECUTE FUNCTION project_access_before_removal();
CREATE TRIGGER project_access_by_truncate AFTER TRUNCATE ON public.projects FOR EACH STATEMENT EXECUTE FUNCTION project_access_on_truncate_of_projects();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.projects REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('project');
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.projects FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.projects REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_projects();
CREATE TRIGGER usage_by_delete AFTER DELETE ON public.projects REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_projects();
CREATE TRIGGER usage_by_insert AFTER INSERT ON public.projects REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_projects();
CREATE TRIGGER usage_by_truncate AFTER TRUNCATE ON public.projects FOR EACH STATEMENT EXECUTE FUNCTION count_projects();
CREATE TRIGGER usage_by_update AFTER UPDATE ON public.projects REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_projects();
CREATE TRIGGER webhooks_by_delete AFTER DELETE ON public.projects FOR EACH ROW WHEN ((old.visibility = 'public'::text)) EXECUTE FUNCTION webhook_on_visibility();
CREATE TRIGGER webhooks_by_visibility AFTER UPDATE OF visibility ON public.projects FOR EACH ROW WHEN ((old.visibility IS DISTINCT FROM new.visibility)) EXECUTE FUNCTION webhook_on_visibility();
comment on table projects is 'Projects. A private project ignores its grants and keeps them.';
comment on column projects.allow_derivatives is 'Whether users other than its owner may create children of a generation in this project.';

create table public_generations (
  id uuid not null,
  project_id uuid not null,
  constraint public_generations__pkey PRIMARY KEY (id) INCLUDE (project_id)
);
CREATE TRIGGER given_rows BEFORE INSERT ON public.public_generations FOR EACH ROW WHEN (((pg_trigger_depth() = 0) AND (current_setting('velro.computes_access'::text, true) IS DISTINCT FROM 'on'::text))) EXECUTE FUNCTION skip_computed_rows();
CREATE TRIGGER given_statement BEFORE INSERT ON public.public_generations FOR EACH STATEMENT WHEN (((pg_trigger_depth() = 0) AND (current_setting('velro.computes_access'::text, true) IS DISTINCT FROM 'on'::text))) EXECUTE FUNCTION skip_computed_rows();
comment on table public_generations is 'The generations of public projects, maintained by triggers in the transaction of each change. No foreign keys, because their locks would break the lock order.';
comment on column public_generations.project_id is 'Included in the index, so a list reads only the index.';

create table recovery_codes (
  user_id uuid not null,
  code_hash bytea not null,
  created_at timestamp with time zone not null,
  constraint recovery_codes_pkey PRIMARY KEY (user_id, code_hash),
  constraint recovery_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint recovery_codes__code_hash_length CHECK ((length(code_hash) = 32))
);
comment on table recovery_codes is 'Unused recovery codes. Each stands in for a second factor once; then its row is deleted.';
comment on column recovery_codes.code_hash is 'SHA-256 of the account and of 120 random bits.';

create table redis_registrations (
  instance text not null,
  server text,
  seen_at timestamp with time zone not null,
  constraint redis_registrations_pkey PRIMARY KEY (instance)
);
comment on table redis_registrations is 'Which Redis server each running instance is connected to. A row that is not renewed expires.';
comment on column redis_registrations.server is 'Run id of the server. A hyphen: no Redis is configured; null: it cannot be reached.';

create table redis_registry (
  only_row boolean default true not null,
  epoch text not null,
  server text not null,
  database text not null,
  chosen_at timestamp with time zone default clock_timestamp() not null,
  constraint redis_registry_pkey PRIMARY KEY (only_row),
  constraint redis_registry__only_row CHECK (only_row)
);
comment on table redis_registry is 'One row: the Redis server that the instances of this database share.';
comment on column redis_registry.epoch is 'Random, new with each choice. Part of every key in Redis, so entries from before a choice are never found.';
comment on column redis_registry.server is 'Run id of the server. A hyphen: the instances use no Redis.';
comment on column redis_registry.database is 'Identity of the database for which it was chosen: a restored copy chooses anew.';

create table refresh_tokens (
  token_hash bytea not null,
  session_id uuid not null,
  issued_at timestamp with time zone not null,
  rotated_at timestamp with time zone,
  access_token_id text,
  access_token_used_at timestamp with time zone,
  constraint refresh_tokens_pkey PRIMARY KEY (token_hash),
  constraint refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions(id) ON DELETE CASCADE,
  constraint refresh_tokens__token_hash_length CHECK ((length(token_hash) = 32))
);
CREATE INDEX refresh_tokens__session_id ON public.refresh_tokens USING btree (session_id);
comment on table refresh_tokens is 'Every refresh token issued to a session, so that the reuse of an old one is detected.';
comment on column refresh_tokens.token_hash is 'SHA-256 of the token. The token itself is not stored.';
comment on column refresh_tokens.rotated_at is 'When the token was exchanged for its successor. Null: it is the current one.';
comment on column refresh_tokens.access_token_id is 'The jti of the access token that was issued with this token. Null for the first one of a session.';
comment on column refresh_tokens.access_token_used_at is 'When that access token was first seen by an instance. Null: it was not used yet.';

create table restrictions (
  id uuid default '00000000-0000-0000-0000-000000000000'::uuid not null,
  mode text default 'normal'::text not null,
  reason text default ''::text not null,
  set_by uuid,
  set_at timestamp with time zone default now() not null,
  expires_at timestamp with time zone,
  networks jsonb default '[]'::jsonb not null,
  constraint restrictions_pkey PRIMARY KEY (id),
  constraint restrictions_set_by_fkey FOREIGN KEY (set_by) REFERENCES users(id),
  constraint restrictions__mode CHECK ((mode = ANY (ARRAY['normal'::text, 'no-register'::text, 'read-only'::text, 'lockdown'::text]))),
  constraint restrictions__normal_stays CHECK (((mode <> 'normal'::text) OR (expires_at IS NULL))),
  constraint restrictions__only_row CHECK ((id = '00000000-0000-0000-0000-000000000000'::uuid)),
  constraint restrictions__reason_length CHECK ((length(reason) <= 500))
);
CREATE TRIGGER mode_touched_by_delete AFTER DELETE ON public.restrictions REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('mode');
CREATE TRIGGER networks_touched_by_delete AFTER DELETE ON public.restrictions REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('blocked_networks');
CREATE TRIGGER touched_by_insert AFTER INSERT ON public.restrictions REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_restrictions();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.restrictions FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.restrictions REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_restrictions();
comment on table restrictions is 'One row: what restricts the whole service. Without it every instance is locked down.';
comment on column restrictions.mode is 'In force on every instance. The instances read it as a fact, which triggers invalidate.';
comment on column restrictions.set_by is 'The operator; null where the mode expired or was lifted from the command line.';
comment on column restrictions.expires_at is 'From then on an instance sets the mode back to normal.';
comment on column restrictions.networks is 'The blocked networks, in CIDR notation. Kept by a trigger of blocks.';

create table schema_functions (
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone default now() not null,
  constraint schema_functions__pkey PRIMARY KEY (name)
);
comment on table schema_functions is 'The files of sql/functions as they were last applied, with their checksums.';

create table schema_migrations (
  version integer not null,
  name text not null,
  checksum text not null,
  applied_at timestamp with time zone default now() not null,
  constraint schema_migrations_pkey PRIMARY KEY (version)
);
comment on table schema_migrations is 'The numbered files of sql/ that were applied, with their checksums.';

create table service_keys (
  id uuid not null,
  name text not null,
  secret_hash bytea not null,
  scopes text[] not null,
  created_by uuid not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone,
  last_used_at timestamp with time zone,
  revoked_at timestamp with time zone,
  limit_per_second integer,
  allowed_networks text[],
  blocked boolean default false not null,
  constraint service_keys_pkey PRIMARY KEY (id),
  constraint service_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES users(id),
  constraint service_keys__allowed_networks CHECK (((cardinality(allowed_networks) >= 1) AND (cardinality(allowed_networks) <= 32))),
  constraint service_keys__has_scopes CHECK ((cardinality(scopes) > 0)),
  constraint service_keys__limit_per_second_range CHECK (((limit_per_second >= 1) AND (limit_per_second <= 1000000))),
  constraint service_keys__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  constraint service_keys__secret_hash_length CHECK ((length(secret_hash) = 32))
);
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.service_keys REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('service_key');
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.service_keys FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.service_keys REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_service_keys();
comment on table service_keys is 'API keys of services.';
comment on column service_keys.secret_hash is 'SHA-256 of the 32 random bytes in the key. The bytes themselves are not stored.';
comment on column service_keys.limit_per_second is 'Requests per second with this key; null: no limit.';
comment on column service_keys.allowed_networks is 'Addresses and ranges from which the key may be used, in CIDR notation. Null: from any.';
comment on column service_keys.blocked is 'Whether there is a block of the key. Kept by a trigger of blocks.';

create table sessions (
  id uuid not null,
  user_id uuid not null,
  user_agent text not null,
  address text not null,
  created_at timestamp with time zone not null,
  last_seen_at timestamp with time zone not null,
  idle_expires_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  end_reason text,
  authenticated_at timestamp with time zone,
  country text,
  earlier_countries text[],
  network_hash bytea,
  browser text,
  platform text,
  seen_country text,
  seen_at timestamp with time zone,
  constraint sessions_pkey PRIMARY KEY (id),
  constraint sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint sessions__end_reason CHECK ((end_reason = ANY (ARRAY['logout'::text, 'logout_all'::text, 'ended_by_user'::text, 'ended_by_operator'::text, 'password_changed'::text, 'password_reset'::text, 'refresh_reused'::text, 'account_closed'::text, 'suspended'::text, 'replaced'::text]))),
  constraint sessions__ended_has_reason CHECK (((ended_at IS NULL) = (end_reason IS NULL)))
);
CREATE INDEX sessions__ended_at ON public.sessions USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX sessions__expires_at ON public.sessions USING btree (expires_at);
CREATE INDEX sessions__live_by_user ON public.sessions USING btree (user_id, id) WHERE (ended_at IS NULL);
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.sessions REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed_sessions();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.sessions FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.sessions REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_sessions();
CREATE TRIGGER webhooks_by_delete AFTER DELETE ON public.sessions FOR EACH ROW WHEN (((old.ended_at IS NULL) AND (LEAST(old.idle_expires_at, old.expires_at) > now()))) EXECUTE FUNCTION webhook_on_session_end();
CREATE TRIGGER webhooks_by_end AFTER UPDATE OF ended_at ON public.sessions FOR EACH ROW WHEN (((old.ended_at IS NULL) AND (new.ended_at IS NOT NULL))) EXECUTE FUNCTION webhook_on_session_end();
comment on table sessions is 'One row for each sign-in: a family of refresh tokens on one device.';
comment on column sessions.idle_expires_at is 'When the session ends unless a refresh token is used before.';
comment on column sessions.expires_at is 'When the session ends at the latest.';
comment on column sessions.ended_at is 'When the session was ended before its expiry, for end_reason.';
comment on column sessions.authenticated_at is 'When its person last authenticated again, as sensitive changes require. Null: not since it was opened.';
comment on column sessions.country is 'Where the session was opened (ISO 3166-1). Null: not known.';
comment on column sessions.earlier_countries is 'Where its person authenticated in the sessions that it replaced, the latest first. Null: in none.';
comment on column sessions.network_hash is 'Keyed hash of the network in which the session was opened. Null: not known.';
comment on column sessions.browser is 'The browser that opened the session, as its User-Agent names it. Null: not named.';
comment on column sessions.platform is 'The operating system of that browser. Null: not named.';
comment on column sessions.seen_country is 'Where the session was opened or last refreshed its tokens. Null: not known.';
comment on column sessions.seen_at is 'When that was. Null: the session was opened before this was recorded.';

create table share_links (
  id uuid not null,
  media_id uuid not null,
  secret_hash bytea not null,
  label text,
  created_by uuid not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone,
  constraint share_links_pkey PRIMARY KEY (id),
  constraint share_links_created_by_fkey FOREIGN KEY (created_by) REFERENCES users(id),
  constraint share_links_media_id_fkey FOREIGN KEY (media_id) REFERENCES media(id) ON DELETE CASCADE,
  constraint share_links__expires_at CHECK ((expires_at > created_at)),
  constraint share_links__label_length CHECK (((length(label) >= 1) AND (length(label) <= 200))),
  constraint share_links__secret_hash_length CHECK ((length(secret_hash) = 32))
);
CREATE INDEX share_links__expires_at ON public.share_links USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX share_links__media_id ON public.share_links USING btree (media_id, id);
comment on table share_links is 'Links that give access to media without an account, until they expire or are removed.';
comment on column share_links.secret_hash is 'SHA-256 of the 32 random bytes in the link. The bytes themselves are not stored.';
comment on column share_links.expires_at is 'Null: the link does not expire.';

create table siem_cursors (
  sink text not null,
  month timestamp with time zone not null,
  sequence bigint not null,
  constraint siem_cursors_pkey PRIMARY KEY (sink, month),
  constraint siem_cursors__sink FOREIGN KEY (sink) REFERENCES siem_sinks(sink) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
comment on table siem_cursors is 'The last link of the chain of each month that a receiver has taken. A month without a row: none.';
comment on column siem_cursors.month is 'The first moment of the month in UTC, which names the chain.';

create table siem_sinks (
  sink text not null,
  holder text not null,
  lease_until timestamp with time zone not null,
  started_at timestamp with time zone default clock_timestamp() not null,
  constraint siem_sinks_pkey PRIMARY KEY (sink)
);
comment on table siem_sinks is 'Receivers of security events, by the kind of SIEM_URL. The instance with the lease sends.';
comment on column siem_sinks.holder is 'The instance that has the lease, or had it last.';
comment on column siem_sinks.started_at is 'Events from before it are not sent.';

create table sign_in_failures (
  account_hash bytea not null,
  source text not null,
  failures integer not null,
  last_failed_at timestamp with time zone not null,
  paused_until timestamp with time zone,
  constraint sign_in_failures_pkey PRIMARY KEY (account_hash, source),
  constraint sign_in_failures__account_hash_length CHECK ((length(account_hash) = 32)),
  constraint sign_in_failures__failures CHECK ((failures > 0))
);
CREATE INDEX sign_in_failures__last_failed_at ON public.sign_in_failures USING btree (last_failed_at);
comment on table sign_in_failures is 'Consecutive failed sign-ins, of existing accounts and of unknown addresses alike.';
comment on column sign_in_failures.account_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';
comment on column sign_in_failures.source is 'Which attempts are counted together: those of one known device, of one known network, of one session, or all others.';
comment on column sign_in_failures.paused_until is 'Until then no attempt of this source is verified. Null before the first pause.';

create table signing_keys (
  kid text not null,
  public_jwk jsonb not null,
  sealed_private_key bytea not null,
  activates_at timestamp with time zone not null,
  retires_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  created_at timestamp with time zone default now() not null,
  constraint signing_keys_pkey PRIMARY KEY (kid),
  constraint signing_keys__order CHECK (((activates_at < retires_at) AND (retires_at < expires_at)))
);
comment on table signing_keys is 'Key pairs that sign access tokens.';
comment on column signing_keys.sealed_private_key is 'AES-256-GCM under a key derived from SECRET, with the kid as associated data.';
comment on column signing_keys.activates_at is 'From here to retires_at the key signs.';
comment on column signing_keys.expires_at is 'From its creation to here the key verifies tokens.';

create table team_invitations (
  id uuid not null,
  team_id uuid not null,
  email text not null,
  role text not null,
  secret_hash bytea not null,
  invited_by uuid not null,
  status text default 'pending'::text not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  decided_at timestamp with time zone,
  constraint team_invitations_pkey PRIMARY KEY (id),
  constraint team_invitations__secret_hash UNIQUE (secret_hash),
  constraint team_invitations_invited_by_fkey FOREIGN KEY (invited_by) REFERENCES users(id),
  constraint team_invitations_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint team_invitations__decided CHECK (((status = 'pending'::text) = (decided_at IS NULL))),
  constraint team_invitations__role CHECK ((role = ANY (ARRAY['admin'::text, 'editor'::text, 'contributor'::text, 'viewer'::text]))),
  constraint team_invitations__secret_hash_length CHECK ((length(secret_hash) = 32)),
  constraint team_invitations__status CHECK ((status = ANY (ARRAY['pending'::text, 'accepted'::text, 'declined'::text, 'cancelled'::text, 'expired'::text])))
);
CREATE INDEX team_invitations__email ON public.team_invitations USING btree (email);
CREATE UNIQUE INDEX team_invitations__pending ON public.team_invitations USING btree (team_id, email) WHERE (status = 'pending'::text);
CREATE INDEX team_invitations__team_id ON public.team_invitations USING btree (team_id, id);
CREATE INDEX team_invitations__unicode_domain ON public.team_invitations USING btree (id) WHERE ((status = 'pending'::text) AND (octet_length(split_part(email, '@'::text, 2)) <> char_length(split_part(email, '@'::text, 2))));
comment on table team_invitations is 'Invitations to a team by e-mail address; at most one is pending for a team and address.';
comment on column team_invitations.email is 'Lower case, NFC, as users.email.';
comment on column team_invitations.secret_hash is 'SHA-256 of the secret. The secret itself is not stored.';
comment on column team_invitations.status is 'An expired invitation stays pending until a new one replaces it.';

create table team_members (
  team_id uuid not null,
  user_id uuid not null,
  role text not null,
  joined_at timestamp with time zone default now() not null,
  constraint team_members__pkey PRIMARY KEY (team_id, user_id),
  constraint team_members_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint team_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id),
  constraint team_members__role CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'editor'::text, 'contributor'::text, 'viewer'::text])))
);
CREATE UNIQUE INDEX team_members__one_owner ON public.team_members USING btree (team_id) WHERE (role = 'owner'::text);
CREATE INDEX team_members__user_id ON public.team_members USING btree (user_id, team_id);
CREATE TRIGGER project_access AFTER INSERT OR DELETE OR UPDATE OF team_id, user_id, role ON public.team_members FOR EACH ROW EXECUTE FUNCTION project_access_on_member();
CREATE TRIGGER project_access_by_truncate AFTER TRUNCATE ON public.team_members FOR EACH STATEMENT EXECUTE FUNCTION project_access_on_truncate();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.team_members REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_changed_memberships();
CREATE TRIGGER touched_by_insert AFTER INSERT ON public.team_members REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_changed_memberships();
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.team_members FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.team_members REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_moved_memberships();
CREATE TRIGGER webhooks_by_delete AFTER DELETE ON public.team_members REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_members('team.member_removed');
CREATE TRIGGER webhooks_by_insert AFTER INSERT ON public.team_members REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_members('team.member_added');
CREATE TRIGGER webhooks_by_role AFTER UPDATE OF role ON public.team_members FOR EACH ROW WHEN ((old.role IS DISTINCT FROM new.role)) EXECUTE FUNCTION webhook_on_role();
comment on table team_members is 'Memberships: one row for each user of a team.';

create table teams (
  id uuid not null,
  name text not null,
  description text default ''::text not null,
  max_members integer default 50 not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  requires_second_factor boolean default false not null,
  constraint teams_pkey PRIMARY KEY (id),
  constraint teams__description_length CHECK ((length(description) <= 4000)),
  constraint teams__max_members CHECK (((max_members >= 1) AND (max_members <= 10000))),
  constraint teams__name_length CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);
CREATE TRIGGER project_access_by_requirement AFTER UPDATE OF requires_second_factor ON public.teams FOR EACH ROW WHEN ((old.requires_second_factor <> new.requires_second_factor)) EXECUTE FUNCTION project_access_on_requirement();
comment on table teams is 'Teams. Each has exactly one member with the role owner.';
comment on column teams.requires_second_factor is 'Whether members without a second factor have no access through the team.';

create table totp_factors (
  user_id uuid not null,
  sealed_secret bytea not null,
  last_step bigint default 0 not null,
  created_at timestamp with time zone not null,
  confirmed_at timestamp with time zone,
  constraint totp_factors_pkey PRIMARY KEY (user_id),
  constraint totp_factors_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
  constraint totp_factors__last_step CHECK ((last_step >= 0))
);
CREATE TRIGGER second_factor_by_totp AFTER INSERT OR DELETE OR UPDATE OF user_id, confirmed_at ON public.totp_factors FOR EACH ROW EXECUTE FUNCTION refresh_second_factor();
comment on table totp_factors is 'Authenticator apps of accounts (RFC 6238).';
comment on column totp_factors.sealed_secret is 'Encrypted under a key derived from SECRET, for this account alone.';
comment on column totp_factors.last_step is 'The time step of the last accepted code: it and those before are refused.';
comment on column totp_factors.confirmed_at is 'Null until a first code has shown that the app works. Until then it is no factor.';

create table used_challenges (
  challenge_hash bytea not null,
  expires_at timestamp with time zone not null,
  constraint used_challenges_pkey PRIMARY KEY (challenge_hash),
  constraint used_challenges__challenge_hash_length CHECK ((length(challenge_hash) = 32))
);
CREATE INDEX used_challenges__expires_at ON public.used_challenges USING btree (expires_at);
comment on table used_challenges is 'Tokens and challenges of sign-ins that were used and have not expired yet. Each is good for one use.';

create table used_stream_tickets (
  id uuid not null,
  expires_at timestamp with time zone not null,
  constraint used_stream_tickets__id PRIMARY KEY (id)
);
CREATE INDEX used_stream_tickets__expires_at ON public.used_stream_tickets USING btree (expires_at);
comment on table used_stream_tickets is 'The ids of stream tickets that opened a stream, so that none opens a second one. Names no person.';
comment on column used_stream_tickets.expires_at is 'From then on the ticket is refused anyway, and the row is deleted.';

create table users (
  id uuid not null,
  email text,
  display_name text not null,
  password_hash text,
  status text default 'active'::text not null,
  role text default 'user'::text not null,
  plan text default 'free'::text not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  limits jsonb,
  email_verified_at timestamp with time zone,
  second_factor boolean default false not null,
  blocked boolean default false not null,
  constraint users_pkey PRIMARY KEY (id),
  constraint users__email UNIQUE (email),
  constraint users__deleted_keeps_nothing CHECK ((((status = 'deleted'::text) = (email IS NULL)) AND ((status <> 'deleted'::text) OR (password_hash IS NULL)))),
  constraint users__email_length CHECK ((length(email) <= 254)),
  constraint users__limits_are_figures CHECK (((jsonb_typeof(limits) = 'object'::text) AND (NOT (limits @? '$.*?((@.type() != "number" || @ < 1) || @ > 1000000000000000)'::jsonpath)))),
  constraint users__plan CHECK ((plan = ANY (ARRAY['free'::text, 'pro'::text, 'enterprise'::text]))),
  constraint users__role CHECK ((role = ANY (ARRAY['user'::text, 'admin'::text]))),
  constraint users__status CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text, 'deleted'::text])))
);
CREATE INDEX users__status ON public.users USING btree (status, id);
CREATE INDEX users__unicode_domain ON public.users USING btree (id) WHERE (octet_length(split_part(email, '@'::text, 2)) <> char_length(split_part(email, '@'::text, 2)));
CREATE TRIGGER factors_of_closed_account AFTER UPDATE OF status ON public.users FOR EACH ROW WHEN (((new.status = 'deleted'::text) AND (old.status <> 'deleted'::text))) EXECUTE FUNCTION forget_factors_of_user();
CREATE TRIGGER pass_teams AFTER UPDATE OF status ON public.users FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND (new.status <> 'active'::text))) EXECUTE FUNCTION pass_teams_of_user();
CREATE TRIGGER project_access_by_second_factor AFTER UPDATE OF second_factor ON public.users FOR EACH ROW WHEN ((old.second_factor <> new.second_factor)) EXECUTE FUNCTION project_access_on_second_factor();
CREATE TRIGGER touched_by_delete AFTER DELETE ON public.users REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('account');
CREATE TRIGGER touched_by_truncate AFTER TRUNCATE ON public.users FOR EACH STATEMENT EXECUTE FUNCTION note_everything();
CREATE TRIGGER touched_by_update AFTER UPDATE ON public.users REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_users();
CREATE TRIGGER touched_profile_by_delete AFTER DELETE ON public.users REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_removed('profile');
CREATE TRIGGER touched_profile_by_update AFTER UPDATE ON public.users REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note_changed_profiles();
CREATE TRIGGER webhooks_by_insert AFTER INSERT ON public.users REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION webhook_on_new_users();
CREATE TRIGGER webhooks_by_status AFTER UPDATE OF status ON public.users FOR EACH ROW WHEN ((old.status IS DISTINCT FROM new.status)) EXECUTE FUNCTION webhook_on_user_status();
comment on table users is 'Accounts. A row is never deleted: closing an account clears the e-mail address and the password hash.';
comment on column users.email is 'Lower case, NFC. Null after the account is closed, so the address can register again.';
comment on column users.password_hash is 'Argon2id, or the hash of another system until the next sign-in. Null: the account has no password, or is closed.';
comment on column users.role is 'admin: an operator of the platform. It gives no access to content.';
comment on column users.limits is 'Budgets per minute and quotas of this account by name, as in src/limits/policy.ts; null: those of its plan.';
comment on column users.email_verified_at is 'When the e-mail address was verified. Null: it is not.';
comment on column users.second_factor is 'Whether the account has a confirmed authenticator app or a passkey. Triggers keep it.';
comment on column users.blocked is 'Whether there is a block of the account. Kept by a trigger of blocks.';

create table view_refreshes (
  view text not null,
  refreshed_at timestamp with time zone not null,
  took interval not null,
  constraint view_refreshes__pkey PRIMARY KEY (view)
);
comment on table view_refreshes is 'When each materialized view was refreshed, so that one instance does it and the others skip it.';

create table webhook_deliveries (
  webhook_id uuid not null,
  event_id uuid not null,
  ordinal bigint not null,
  resource text not null,
  state text default 'pending'::text not null,
  queued_at timestamp with time zone default clock_timestamp() not null,
  due_at timestamp with time zone,
  lease_until timestamp with time zone,
  attempts integer default 0 not null,
  last_attempt_at timestamp with time zone,
  response_status integer,
  error text,
  delivered_at timestamp with time zone,
  constraint webhook_deliveries_pkey PRIMARY KEY (webhook_id, event_id),
  constraint webhook_deliveries_event_id_fkey FOREIGN KEY (event_id) REFERENCES webhook_events(id) ON DELETE CASCADE,
  constraint webhook_deliveries__delivered_has_time CHECK (((state = 'delivered'::text) <= (delivered_at IS NOT NULL))),
  constraint webhook_deliveries__error CHECK ((error = ANY (ARRAY['timeout'::text, 'connection'::text, 'tls'::text, 'address'::text, 'url'::text, 'status'::text]))),
  constraint webhook_deliveries__state CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
);
CREATE INDEX webhook_deliveries__event_id ON public.webhook_deliveries USING btree (event_id);
CREATE INDEX webhook_deliveries__failed ON public.webhook_deliveries USING btree (webhook_id, event_id) WHERE (state = 'failed'::text);
CREATE INDEX webhook_deliveries__in_order ON public.webhook_deliveries USING btree (webhook_id, resource, ordinal) WHERE ((state <> 'delivered'::text) AND (state <> 'failed'::text));
CREATE INDEX webhook_deliveries__unnoticed ON public.webhook_deliveries USING btree (ordinal) WHERE (due_at IS NULL);
CREATE INDEX webhook_deliveries__waiting ON public.webhook_deliveries USING btree (webhook_id, ordinal) WHERE (state = 'pending'::text);
comment on table webhook_deliveries is 'The queue: one row for each event and webhook that wants it, with the state of its delivery.';
comment on column webhook_deliveries.webhook_id is 'No foreign key: its lock would make changes wait for a webhook that is being removed. Rows without a webhook are purged.';
comment on column webhook_deliveries.queued_at is 'When it was recorded, or last replayed. Attempts end 24 hours later.';
comment on column webhook_deliveries.due_at is 'When it may be sent. Null until a sender has noticed it.';
comment on column webhook_deliveries.attempts is 'Also the fencing token: the result of an attempt is stored only while it is the last.';

create table webhook_events (
  id uuid not null,
  ordinal bigint generated always as identity not null,
  type text not null,
  resource text not null,
  data jsonb not null,
  occurred_at timestamp with time zone default clock_timestamp() not null,
  constraint webhook_events_pkey PRIMARY KEY (id)
);
CREATE INDEX webhook_events__occurred_at ON public.webhook_events USING btree (occurred_at);
comment on table webhook_events is 'What happened, by ids only, for 30 days. Written by triggers in the transaction of the change, if a webhook wants it.';
comment on column webhook_events.ordinal is 'Order in which the events were recorded: of changes that exclude each other, the one committed later has the higher.';
comment on column webhook_events.resource is 'The resource within which events are delivered in order, such as team:<id>.';

create table webhooks (
  id uuid not null,
  team_id uuid,
  url text not null,
  events text[] not null,
  description text default ''::text not null,
  enabled boolean default true not null,
  gone boolean default false not null,
  secret bytea not null,
  previous_secret bytea,
  previous_secret_until timestamp with time zone,
  responsible_id uuid not null,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  failures integer default 0 not null,
  resume_at timestamp with time zone,
  last_success_at timestamp with time zone,
  constraint webhooks_pkey PRIMARY KEY (id),
  constraint webhooks_responsible_id_fkey FOREIGN KEY (responsible_id) REFERENCES users(id),
  constraint webhooks_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams(id) ON DELETE CASCADE,
  constraint webhooks__description_length CHECK ((length(description) <= 200)),
  constraint webhooks__has_events CHECK ((cardinality(events) > 0)),
  constraint webhooks__previous_secret_ends CHECK (((previous_secret IS NULL) = (previous_secret_until IS NULL))),
  constraint webhooks__url_length CHECK (((length(url) >= 1) AND (length(url) <= 2048)))
);
CREATE INDEX webhooks__team_id ON public.webhooks USING btree (team_id, id);
comment on table webhooks is 'Addresses to which events are sent, registered by operators and by admins of teams.';
comment on column webhooks.team_id is 'Null: registered by an operator, for events of all accounts.';
comment on column webhooks.gone is 'The receiver answered 410, which disabled the webhook.';
comment on column webhooks.secret is 'The signing secret, sealed.';
comment on column webhooks.previous_secret is 'The secret before the last rotation, sealed. It signs too until previous_secret_until.';
comment on column webhooks.responsible_id is 'Who last set the address. A webhook is sent only while this account is active, and an operator, for a team an admin or the owner.';
comment on column webhooks.failures is 'Consecutive attempts that failed, over all deliveries.';
comment on column webhooks.resume_at is 'After too many failures nothing is sent before.';

create table welcome_grants (
  network text not null,
  day date not null,
  accounts integer not null,
  constraint welcome_grants_pkey PRIMARY KEY (network, day),
  constraint welcome_grants__accounts CHECK ((accounts > 0))
);
comment on table welcome_grants is 'How many accounts of a network got welcome credits on a day (UTC). Kept for two days.';

create table welcomed_addresses (
  address_hash bytea not null,
  remembered_at timestamp with time zone not null,
  constraint welcomed_addresses_pkey PRIMARY KEY (address_hash),
  constraint welcomed_addresses__address_hash_length CHECK ((length(address_hash) = 32))
);
CREATE INDEX welcomed_addresses__remembered_at ON public.welcomed_addresses USING btree (remembered_at);
comment on table welcomed_addresses is 'E-mail addresses that have had their welcome credits. Kept for 400 days, so that closing an account and registering again gives them once.';
comment on column welcomed_addresses.address_hash is 'HMAC of the canonical e-mail address under a key derived from SECRET.';
comment on column welcomed_addresses.remembered_at is 'When the account got the credits, or was closed.';

create table wrapped_keys (
  name text not null,
  sealed_key bytea not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  constraint wrapped_keys_pkey PRIMARY KEY (name)
);
comment on table wrapped_keys is 'Keys of the hashes by which stored values are found again. They stay the same when SECRET changes.';
comment on column wrapped_keys.sealed_key is 'AES-256-GCM under a key derived from SECRET, with the name as associated data.';

create view access_heat_alive as
 SELECT h.user_id,
    h.resource_type,
    h.resource_id,
    heat_left(h.hits, h.last_at) AS heat
   FROM (((access_heat h
     JOIN users u ON (((u.id = h.user_id) AND (u.status = 'active'::text))))
     LEFT JOIN projects p ON (((h.resource_type = 'project'::text) AND (p.id = h.resource_id))))
     LEFT JOIN generations g ON (((h.resource_type = 'generation'::text) AND (g.id = h.resource_id))))
  WHERE (((p.id IS NOT NULL) OR (g.id IS NOT NULL)) AND (heat_left(h.hits, h.last_at) >= (1)::double precision));
comment on view access_heat_alive is 'Frequencies worth keeping: of active users and existing resources, with a decayed frequency of at least 1.';

create materialized view access_statistics as
 SELECT p.id AS project_id,
    p.owner_id,
    p.visibility,
    COALESCE(a.may_read, (0)::bigint) AS may_read,
    COALESCE(a.may_download, (0)::bigint) AS may_download,
    COALESCE(a.may_create, (0)::bigint) AS may_create,
    COALESCE(a.may_write, (0)::bigint) AS may_write,
    COALESCE(a.may_share, (0)::bigint) AS may_share,
    COALESCE(a.may_delete, (0)::bigint) AS may_delete,
    COALESCE(a.may_admin, (0)::bigint) AS may_admin,
    COALESCE(t.teams, (0)::bigint) AS teams,
    COALESCE(g.generations, (0)::bigint) AS generations,
    COALESCE(g.completed, (0)::bigint) AS completed,
    g.newest_at
   FROM (((projects p
     LEFT JOIN ( SELECT project_access.project_id,
            count(*) FILTER (WHERE ((project_access.actions & 1) <> 0)) AS may_read,
            count(*) FILTER (WHERE ((project_access.actions & 2) <> 0)) AS may_download,
            count(*) FILTER (WHERE ((project_access.actions & 4) <> 0)) AS may_create,
            count(*) FILTER (WHERE ((project_access.actions & 8) <> 0)) AS may_write,
            count(*) FILTER (WHERE ((project_access.actions & 16) <> 0)) AS may_share,
            count(*) FILTER (WHERE ((project_access.actions & 32) <> 0)) AS may_delete,
            count(*) FILTER (WHERE ((project_access.actions & 64) <> 0)) AS may_admin
           FROM (project_access
             JOIN users u ON (((u.id = project_access.user_id) AND (u.status = 'active'::text))))
          GROUP BY project_access.project_id) a ON ((a.project_id = p.id)))
     LEFT JOIN ( SELECT project_grants.project_id,
            count(*) AS teams
           FROM project_grants
          GROUP BY project_grants.project_id) t ON ((t.project_id = p.id)))
     LEFT JOIN ( SELECT generations.project_id,
            count(*) AS generations,
            count(*) FILTER (WHERE (generations.status = 'completed'::text)) AS completed,
            max(generations.created_at) AS newest_at
           FROM generations
          WHERE (generations.project_id IS NOT NULL)
          GROUP BY generations.project_id) g ON ((g.project_id = p.id)));
CREATE UNIQUE INDEX access_statistics__project_id ON public.access_statistics USING btree (project_id);
comment on materialized view access_statistics is 'For each project: how many active users may do each action by owning it or through teams, and how many teams and generations it has.';

create materialized view hottest_pairs as
 SELECT user_id,
    resource_type,
    resource_id,
    heat
   FROM access_heat_alive
  ORDER BY heat DESC
 LIMIT max_hottest_pairs();
CREATE UNIQUE INDEX hottest_pairs__pair ON public.hottest_pairs USING btree (user_id, resource_type, resource_id);
comment on materialized view hottest_pairs is 'The most frequent pairs of user and resource, which an instance prefetches when it starts. Refreshed on a schedule.';

create view project_access_difference as
 SELECT user_id,
    project_id,
    actual.actions AS actual,
    expected.actions AS expected
   FROM (project_access actual
     FULL JOIN project_access_expected expected USING (user_id, project_id))
  WHERE ((actual.actions IS DISTINCT FROM expected.actions) OR (actual.owned IS DISTINCT FROM expected.owned));
comment on view project_access_difference is 'Rows of project_access that differ from the base tables: always empty. Reads everything; for the scheduled check and for tests.';

create view project_access_expected as
 SELECT user_id,
    project_id,
    bit_or(actions) AS actions,
    bool_or(owned) AS owned
   FROM ( SELECT p.owner_id AS user_id,
            p.id AS project_id,
            r.actions,
            true AS owned
           FROM (projects p
             JOIN access_rules r ON (((r.kind = 'owner'::text) AND (r.name = 'project'::text))))
        UNION ALL
         SELECT m.user_id,
            g.project_id,
            (role.actions & level.actions),
            false
           FROM (((((project_grants g
             JOIN projects p ON (((p.id = g.project_id) AND (p.visibility <> 'private'::text))))
             JOIN teams t ON ((t.id = g.team_id)))
             JOIN team_members m ON ((m.team_id = g.team_id)))
             JOIN access_rules role ON (((role.kind = 'role'::text) AND (role.name = m.role))))
             JOIN access_rules level ON (((level.kind = 'access_level'::text) AND (level.name = g.access_level))))
          WHERE ((NOT t.requires_second_factor) OR ( SELECT u.second_factor
                   FROM users u
                  WHERE (u.id = m.user_id)))) sources
  WHERE (actions > 0)
  GROUP BY user_id, project_id;
comment on view project_access_expected is 'Effective access computed from projects, grants, members, second factors and access_rules: the rows that project_access must hold.';

create view public_generations_expected as
 SELECT g.id,
    g.project_id
   FROM (projects p
     JOIN generations g ON ((g.project_id = p.id)))
  WHERE (p.visibility = 'public'::text);
comment on view public_generations_expected is 'The rows that public_generations must hold.';
