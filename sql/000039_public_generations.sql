-- Lists find the generations of public projects in an index of their own, in the order of the list. The version before goes on
-- reading its tables. Writes to generations and projects wait while the rows are copied.
-- functions: 7568e58f3ad5a09cf6afc70f580525cdafcffa6496b58cbe8a0c49b9f2db8e63

create table public_generations (
  id uuid not null,
  project_id uuid not null,
  constraint public_generations__pkey primary key (id) include (project_id)
);
comment on table public_generations is
  'The generations of public projects, maintained by triggers in the transaction of each change. No foreign keys, because their locks would break the lock order.';
comment on column public_generations.project_id is 'Included in the index, so a list reads only the index.';

create or replace function list_new_generations() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function list_changed_generation() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function list_generations_of_project() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function unlist_generations() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger listed_by_visibility after update of visibility on projects
  for each row when ((old.visibility = 'public') <> (new.visibility = 'public')) execute function list_generations_of_project();
create trigger listed_by_insert after insert on generations
  referencing new table as added for each statement execute function list_new_generations();
create trigger listed_by_update after update of id, project_id on generations
  for each row when ((old.id, old.project_id) is distinct from (new.id, new.project_id)) execute function list_changed_generation();
create trigger listed_by_delete after delete on generations
  for each row when (old.project_id is not null) execute function list_changed_generation();
create trigger listed_by_truncate after truncate on generations for each statement execute function unlist_generations();

insert into public_generations (id, project_id)
select g.id, g.project_id from projects p join generations g on g.project_id = p.id where p.visibility = 'public';

create trigger given_rows before insert on public_generations
  for each row when (pg_trigger_depth() = 0 and current_setting('velro.computes_access', true) is distinct from 'on')
  execute function skip_computed_rows();
create trigger given_statement before insert on public_generations
  for each statement when (pg_trigger_depth() = 0 and current_setting('velro.computes_access', true) is distinct from 'on')
  execute function skip_computed_rows();
