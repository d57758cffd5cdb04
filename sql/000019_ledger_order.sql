-- The order of a person's entries is that of their ids, whichever instance made those, whatever its clock says and however
-- long it waited for the balance: under the balance's lock, an id that is not above the last one is moved to a
-- millisecond after it. An entry is of the moment when it got the lock. Entries that are there stay as they are.

create or replace function lock_credit_balance() returns trigger language plpgsql as $$
declare
  last_id uuid;
  last_ms bigint;
begin
  if new.kind in ('settle', 'refund') and not exists (
    select from credit_ledger r
     where r.generation_id = new.generation_id and r.kind = 'reserve' and r.user_id = new.user_id
       and (new.kind = 'settle' or new.amount = -r.amount)
  ) then
    raise exception 'a % has to close what was reserved, for the same person and amount', new.kind
      using errcode = 'integrity_constraint_violation';
  end if;
  insert into credit_balances (user_id, balance) values (new.user_id, 0) on conflict do nothing;
  select balance + new.amount into new.balance_after from credit_balances where user_id = new.user_id for update;
  new.created_at := clock_timestamp();
  -- By a statement of its own, which sees what was committed while this one waited.
  select id into last_id from credit_ledger where user_id = new.user_id order by id desc limit 1;
  if new.id <= last_id then
    -- The first 48 bits are the milliseconds; version, variant and chance stay those of the new one.
    last_ms := ('x' || left(replace(last_id::text, '-', ''), 12))::bit(48)::bigint;
    new.id := (lpad(to_hex(last_ms + 1), 12, '0') || right(replace(new.id::text, '-', ''), 20))::uuid;
  end if;
  return new;
end $$;
