-- Generations that are made: what was asked for, what came of it, and the jobs that make them.

alter table generations
  add column negative_prompt text not null default '',
  -- Complete, defaults and all, as the model took them.
  add column parameters jsonb not null default '{}',
  add column outputs integer not null default 1,
  -- In credits, of all outputs together.
  add column price integer not null default 0,
  -- Why it failed; one of the words of the program.
  add column failure text,
  -- When somebody first began to make it, and when it was over.
  add column started_at timestamptz,
  add column finished_at timestamptz,
  add constraint generations__negative_prompt_length check (length(negative_prompt) <= 4000),
  add constraint generations__outputs check (outputs between 1 and 16),
  add constraint generations__price check (price >= 0);

-- From before there was anybody to make them: nobody paid for them, and nobody will make them.
update generations set status = 'cancelled' where status in ('queued', 'processing');
update generations set failure = 'failed' where status = 'failed';
alter table generations add constraint generations__failure check ((failure is not null) = (status = 'failed'));

-- A generation that is not finished has one. Whoever works on it holds a lease, by a number that grows with each attempt:
-- what an attempt that lost its lease brings is not taken. Locks are taken on the generation first, then on its job, or
-- not waited for.
create table generation_jobs (
  generation_id uuid primary key references generations (id) on delete cascade,
  -- By its owner's plan: lower goes first.
  priority integer not null,
  created_at timestamptz not null default clock_timestamp(),
  run_after timestamptz not null default clock_timestamp(),
  attempt integer not null default 0,
  -- Attempts that came to nothing by themselves; one whose worker was killed is none of them.
  failures integer not null default 0,
  -- Of the attempt under way, from 0 to 1.
  progress real not null default 0,
  worker text,
  lease_until timestamptz,
  -- What a remote provider calls it, so that it is not asked for twice.
  remote jsonb,
  constraint generation_jobs__progress check (progress between 0 and 1),
  constraint generation_jobs__leased check ((worker is null) = (lease_until is null))
);

create index generation_jobs__next on generation_jobs (priority, created_at, generation_id);
