-- Turns: within a plan, the owners of jobs take turns. A job is leased by priority, then by its turn, then by its age.
--
-- This is self-clocked fair queuing (Golestani 1994) with jobs of equal weight. A new job gets the later of two turns:
-- - one more than the highest turn among the unfinished jobs of its owner;
-- - the next turn of its priority: one more than the highest turn among the jobs that are running, or while none is running, one
--   more than the lowest turn among those that wait. It is never below the lowest turn among those that wait. The first turn is 0.
--
-- So an owner with many jobs waits one turn for each of them, and an owner with none waits one turn. New owners cannot hold up a
-- job forever: each job that is leased moves the next turn on. (Start-time fair queuing gives new owners the current turn instead.
-- Then all of them would come before the second job of every other owner.)

-- In a trigger, so that a job gets its turn whichever version or client inserts it. Takes the lock of what the owner holds, as
-- the check of its quota does before (usage.sql). So jobs that an owner enqueues at the same moment get different turns. Cost:
-- four index lookups. The settings keep the planner on the indexes, because it may have planned while the queue was empty.
create or replace function give_turn() returns trigger language plpgsql
  set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
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
end $$;
comment on function give_turn() is
  'Gives a new job the turn after the last unfinished one of its owner, and none before the next turn of its priority.';
