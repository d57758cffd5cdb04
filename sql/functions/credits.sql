-- Credits: the ledger is the source of truth and only grows. Its triggers update the balance in the same transaction,
-- under the lock of the balance row, so the balance is always the sum of the entries.

-- Runs before each ledger entry is inserted. Locks the balance row of the user for update, until the end of the
-- transaction, and computes the balance after the entry. Does not update it: the entry may still be skipped by
-- `on conflict do nothing`.
-- The entries of a user are ordered by id, even if instances with different clocks made the ids: an id that does not follow
-- the last one is moved to one millisecond after it. The entry gets the time at which the lock was granted.
-- An entry that says its balance_after comes from a dump and stays as it is; check_restored_entries runs after the statement.
create or replace function lock_credit_balance() returns trigger language plpgsql set search_path from current as $$
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
end $$;
comment on function lock_credit_balance() is
  'Locks the balance before an entry is inserted, computes balance_after, and keeps the ids of a user in order.';

-- Runs after the entry is inserted. Every row of a multi-row insert is prepared before the first is counted, so two entries
-- of one user in one statement would both start at the same balance: they are refused.
create or replace function keep_credit_balance() returns trigger language plpgsql set search_path from current as $$
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
end $$;
comment on function keep_credit_balance() is
  'Updates the balance after an entry was inserted; refuses two entries of one user in one statement.';

-- Runs once after a statement, in a transaction that inserted entries from a dump. A dump has them in any order, so they are
-- checked together: every balance_after must be the sum of the entries up to it, and no reservation may be missing. Then the
-- balance is that sum. Reads all entries of the users.
create or replace function check_restored_entries() returns trigger language plpgsql set search_path from current as $$
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
end $$;
comment on function check_restored_entries() is
  'Checks entries from a dump, which say their balance_after, and sets the balances of their users.';

-- For tables whose rows follow from other tables, so that a dump of data alone can be restored while triggers run: the rows
-- it has are skipped, and the triggers of the other tables make them.
create or replace function skip_computed_rows() returns trigger language plpgsql set search_path from current as $$
begin
  if tg_level = 'STATEMENT' then
    raise notice 'triggers compute the rows of table %: those given are skipped', tg_table_name;
  end if;
  return null;
end $$;
comment on function skip_computed_rows() is 'Skips given rows of a table that triggers compute.';

create or replace function refuse_change() returns trigger language plpgsql set search_path from current as $$
begin
  raise exception 'table % is append-only: write a ledger entry instead', tg_table_name
    using errcode = 'insufficient_privilege';
end $$;
comment on function refuse_change() is
  'Refuses to change or delete ledger entries, and to write balances other than through the ledger.';
