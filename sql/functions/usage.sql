-- What the account of a person holds, for quotas: projects and teams that it owns, live sessions, unfinished jobs, stored bytes.
--
-- A change that adds to it takes the lock of the account's usage, then counts, then adds, in one transaction. So of concurrent
-- changes each counts those before it. What takes away needs no lock. Stored bytes and projects have counters, because an
-- account may own a million media and thousands of projects; the other rows are few, and are counted in an index.

-- Stored bytes are those of media, and those that unfinished jobs have reserved for their outputs. A job that completes turns
-- the one into the other in its transaction. The settings keep the planner on the indexes, because it may have planned while
-- a table was empty.
create or replace function usage_of(person uuid, quota text) returns bigint language plpgsql stable
  set search_path from current set enable_seqscan = off as $$
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
end $$;
comment on function usage_of(uuid, text) is 'How much of a quota an account uses.';

-- The lock is advisory, so that nothing has to exist before. It comes after all rows but jobs and balances in the lock order.
-- The counts are statements of their own: each sees the commits made while the lock was waited for.
create or replace function lock_usage(person uuid, quotas text[]) returns table (quota text, used bigint)
  language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock(hashtextextended(person::text, usage_lock_seed()));
  foreach quota in array quotas loop
    used := usage_of(person, quota);
    return next;
  end loop;
end $$;
comment on function lock_usage(uuid, text[]) is
  'Locks what an account holds until the transaction ends, so that quotas hold, and returns how much of each quota it uses.';

-- Runs after each statement that changes media. Rows are written in the order of their users, so that statements that change
-- the media of several users wait for each other without a deadlock.
create or replace function count_media_bytes() returns trigger language plpgsql set search_path from current as $$
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
end $$;
comment on function count_media_bytes() is 'Adds the bytes of new media to the usage of their owners, and takes those of deleted media away.';

-- The setting is no SET clause of the function, for which one must be a superuser. Rows inserted without it are skipped: a dump
-- has them, and its media are counted (skip_computed_rows).
create or replace function add_media_bytes(owners uuid[], objects text[], sign integer) returns void
  language plpgsql set search_path from current as $$
begin
  perform set_config('velro.counts_usage', 'on', true);
  insert into account_usage as u (user_id, media_bytes)
  select m.owner_id, sign * sum(o.bytes)
    from unnest(owners, objects) as m (owner_id, sha256) join media_objects o on o.sha256 = m.sha256
   group by m.owner_id order by m.owner_id
      on conflict (user_id) do update set media_bytes = u.media_bytes + excluded.media_bytes;
  perform set_config('velro.counts_usage', '', true);
end $$;
comment on function add_media_bytes(uuid[], text[], integer) is 'Adds the bytes of objects to the usage of their owners, or takes them away.';

-- Runs after each statement that changes projects.
create or replace function count_projects() returns trigger language plpgsql set search_path from current as $$
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
end $$;
comment on function count_projects() is 'Counts the projects of their owners in their usage.';

-- Writes the rows in the order of their users, as add_media_bytes does.
create or replace function add_projects(gaining uuid[], losing uuid[]) returns void
  language plpgsql set search_path from current as $$
begin
  perform set_config('velro.counts_usage', 'on', true);
  insert into account_usage as u (user_id, projects)
  select owner_id, sum(change)
    from (select unnest(gaining) as owner_id, 1 as change union all select unnest(losing), -1) changes
   where owner_id is not null group by owner_id having sum(change) <> 0 order by owner_id
      on conflict (user_id) do update set projects = u.projects + excluded.projects;
  perform set_config('velro.counts_usage', '', true);
end $$;
comment on function add_projects(uuid[], uuid[]) is 'Adds one project to the usage of each gaining owner, and takes one away from each losing owner.';

-- The usage of accounts whose id is above "first" and up to "last", where a counter of media bytes or projects is wrong. One
-- statement, so rows and counters are of one snapshot. Locks nothing.
create or replace function wrong_usage(first uuid, last uuid) returns setof uuid
  language plpgsql stable set search_path from current as $$
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
end $$;
comment on function wrong_usage(uuid, uuid) is 'Accounts in a range of ids whose counters of stored bytes and projects are wrong.';

-- Locks the counters first, so that triggers of concurrent changes wait, and counts by a later statement. Such a change is either
-- committed, and counted here, or its trigger adds to the new figures after the commit. Returns no row where the counters are right.
create or replace function recount_usage_of(person uuid)
  returns table (media_bytes bigint, projects bigint, held_bytes bigint, held_projects bigint)
  language plpgsql set search_path from current as $$
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
end $$;
comment on function recount_usage_of(uuid) is
  'Counts the stored bytes and the projects of one account anew. Returns the old and the new figures where they differ.';

-- For changes that were made while triggers were disabled. Keeps media and projects from changing meanwhile.
create or replace function recount_usage() returns void
  language plpgsql set search_path from current as $$
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
end $$;
comment on function recount_usage() is 'Counts the stored bytes and the projects of all accounts anew.';
