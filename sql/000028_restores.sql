-- A dump of data alone can be restored while triggers run: credits stay as they were, and what triggers compute is skipped.
-- functions: 17a86a9670ba2df726bdffcf0eb1f3105de16a129cb4356948d8db1ad5b5bd81

create or replace function check_restored_entries() returns trigger language plpgsql as $$ begin return null; end $$;
create or replace function skip_computed_rows() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger check_restored_entries after insert on credit_ledger
  referencing new table as added for each statement
  when (current_setting('velro.restored_entries', true) = 'on') execute function check_restored_entries();

create or replace trigger only_by_ledger before delete or update on credit_balances
  for each statement when (pg_trigger_depth() = 0) execute function refuse_change();
create trigger given_rows before insert on credit_balances
  for each row when (pg_trigger_depth() = 0) execute function skip_computed_rows();
create trigger given_statement before insert on credit_balances
  for each statement when (pg_trigger_depth() = 0) execute function skip_computed_rows();

create trigger given_rows before insert on project_access
  for each row when (current_setting('velro.computes_access', true) is distinct from 'on') execute function skip_computed_rows();
create trigger given_statement before insert on project_access
  for each statement when (current_setting('velro.computes_access', true) is distinct from 'on')
  execute function skip_computed_rows();
