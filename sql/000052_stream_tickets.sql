-- Stream tickets that were used. A ticket is signed and not stored; its id is noted at its only use.
create table used_stream_tickets (
  id uuid not null,
  expires_at timestamptz not null,
  constraint used_stream_tickets__id primary key (id)
);
create index used_stream_tickets__expires_at on used_stream_tickets (expires_at);
comment on table used_stream_tickets is 'The ids of stream tickets that opened a stream, so that none opens a second one. Names no person.';
comment on column used_stream_tickets.expires_at is 'From then on the ticket is refused anyway, and the row is deleted.';
