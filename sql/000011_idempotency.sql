-- What was answered to requests that carried an Idempotency-Key, for a day. The row is written in the transaction of what
-- was asked for: a second request with the key waits for the first one's end, and gets its answer or is the first.
create table idempotency_keys (
  user_id uuid not null references users (id) on delete cascade,
  route text not null,
  key text not null,
  -- SHA-256 of the body, whatever the order of its members.
  request_hash bytea not null,
  -- Null only inside of the transaction that makes them.
  status smallint,
  -- As text: an answer that is given again is the same to the byte.
  answer text,
  created_at timestamptz not null,
  primary key (user_id, route, key),
  constraint idempotency_keys__key_length check (length(key) between 1 and 255),
  constraint idempotency_keys__request_hash_length check (length(request_hash) = 32)
);

create index idempotency_keys__created_at on idempotency_keys (created_at);
