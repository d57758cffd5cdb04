-- Orders at providers that nobody waits for any more: written in the transaction that took their jobs away, gone when the
-- provider was told.

create table order_cancellations (
  -- Whose job it was; the generation may be gone.
  generation_id uuid primary key,
  model text not null,
  -- What the provider calls it.
  remote jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  due_at timestamptz not null default clock_timestamp()
);

create index order_cancellations__due_at on order_cancellations (due_at);
