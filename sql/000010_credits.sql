-- Credits: what people have, and every reason why.
--
-- The ledger is the truth and only grows. A balance is the sum of its owner's entries, kept by the ledger's own triggers in
-- the transaction that writes the entry, under the balance's row lock: whoever may read the one may read the other, and
-- both say the same. Neither can be written past the other, not even by hand.

create table credit_balances (
  user_id uuid primary key references users (id),
  balance bigint not null,
  constraint credit_balances__balance check (balance >= 0)
);

create table credit_ledger (
  id uuid primary key,
  user_id uuid not null references users (id),
  kind text not null,
  -- What it does to the balance. What is reserved has left it; settling says that it will not come back.
  amount integer not null,
  balance_after bigint not null,
  -- Without a foreign key: a generation may be deleted, what was paid for it may not.
  generation_id uuid,
  note text not null default '',
  -- The operator who granted it.
  created_by uuid references users (id),
  created_at timestamptz not null default clock_timestamp(),
  constraint credit_ledger__kind check (kind in ('welcome', 'grant', 'reserve', 'settle', 'refund')),
  constraint credit_ledger__amount check (
    case kind when 'reserve' then amount <= 0 when 'settle' then amount = 0 when 'refund' then amount >= 0 else amount > 0 end
  ),
  constraint credit_ledger__generation_id check (
    (kind in ('reserve', 'settle', 'refund')) = (generation_id is not null)
  ),
  constraint credit_ledger__created_by check ((kind = 'grant') = (created_by is not null)),
  constraint credit_ledger__note_length check (length(note) <= 500)
);

create index credit_ledger__user_id on credit_ledger (user_id, id);
create unique index credit_ledger__welcomed_once on credit_ledger (user_id) where kind = 'welcome';
create unique index credit_ledger__reserved_once on credit_ledger (generation_id) where kind = 'reserve';
create unique index credit_ledger__closed_once on credit_ledger (generation_id) where kind in ('settle', 'refund');

-- Takes the balance's lock and says what it will be. Changes nothing yet: the entry may still come to nothing, as one that
-- meets another on a unique index and was told to let it be.
create function lock_credit_balance() returns trigger language plpgsql as $$
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
  return new;
end $$;

create function keep_credit_balance() returns trigger language plpgsql as $$
begin
  update credit_balances set balance = new.balance_after
   where user_id = new.user_id and balance = new.balance_after - new.amount;
  if not found then
    raise exception 'one statement wrote two entries of one person' using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is kept by the ledger, which only grows', tg_table_name using errcode = 'insufficient_privilege';
end $$;

create trigger lock_credit_balance before insert on credit_ledger
  for each row execute function lock_credit_balance();
create trigger keep_credit_balance after insert on credit_ledger
  for each row execute function keep_credit_balance();
create trigger only_grows before update or delete or truncate on credit_ledger
  for each statement execute function refuse_change();
-- Depth 0 is a statement somebody sent.
create trigger only_by_ledger before insert or update or delete on credit_balances
  for each statement when (pg_trigger_depth() = 0) execute function refuse_change();
create trigger never_emptied before truncate on credit_balances
  for each statement execute function refuse_change();

-- Whoever is here already gets what newcomers get. The ids are of version 7, which older servers have no function for.
insert into credit_ledger (id, user_id, kind, amount)
select encode(
         set_bit(
           set_bit(
             overlay(uuid_send(gen_random_uuid())
                     placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                     from 1 for 6),
             52, 1),
           53, 1),
         'hex')::uuid,
       id, 'welcome', 1000
  from users where status <> 'deleted';
