-- Invalidation events get positions without gaps, so that a receiver notices a lost one. The program writes the keys into the
-- row, and the row's trigger sends them at the commit.
-- functions: a9860d8da272ee934cfb2394c71ddb503dc14ee2b9315e8d23809eb14d9d91db

create table event_positions (
  only_row boolean not null default true,
  position bigint not null,
  constraint event_positions_pkey primary key (only_row),
  constraint event_positions__only_row check (only_row)
)
-- Room for the versions that running transactions can still see, so that an update stays on its page.
with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
insert into event_positions (position) values (0);
comment on table event_positions is 'One row: how many invalidation events were committed.';
comment on column event_positions.position is 'Position of the newest committed event. Each event increments it when it commits.';

alter table access_events add column writer text;
comment on column access_events.writer is 'The instance that waits for acknowledgements; null: none does.';
