-- Owners of queued jobs take turns within a plan. The version before runs on it: its jobs get their turns by the trigger, and it
-- leases by age through its own index, which the next version drops.
-- functions: 7e47e6d53d98740f181dc596a6f5b3ba75a1d9da0f023308196e87ddfd4f784b

alter table generation_jobs add column owner_id uuid, add column turn bigint;
update generation_jobs j set owner_id = numbered.owner_id, turn = numbered.turn
  from (select q.generation_id, g.owner_id,
               row_number() over (partition by q.priority, g.owner_id order by q.created_at, g.id) - 1 as turn
          from generation_jobs q join generations g on g.id = q.generation_id) numbered
 where j.generation_id = numbered.generation_id;
alter table generation_jobs alter column owner_id set not null, alter column turn set not null;
comment on column generation_jobs.owner_id is 'The owner of the generation, who takes turns with others.';
comment on column generation_jobs.turn is 'Within a priority the lowest turn runs first, then the oldest job.';

create index generation_jobs__turn on generation_jobs (priority, turn, created_at, generation_id);
create index generation_jobs__turn_under_way on generation_jobs (priority, turn) where worker is not null;
create index generation_jobs__owner_id on generation_jobs (owner_id, priority, turn);

create function give_turn() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger give_turn before insert on generation_jobs for each row execute function give_turn();
