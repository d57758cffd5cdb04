-- Events of the program are sent after their commit, several at once, so that commits share writes to the disk.
-- functions: 39de3fc761b54bf48a0b9dfae77291da382ce92d2cdb6d2acc00bc2bf0572eca

-- Rows that exist were sent with their commit.
alter table access_events add column position bigint default 0, add column ordinal bigint;
alter table access_events alter column position drop default;
comment on column access_events.position is 'Position of the event, once it was sent.';
comment on column access_events.ordinal is
  'Order in which the events were recorded: a transaction that saw or waited for the changes of another has a higher one.';
create index access_events__unsent on access_events (ordinal) where position is null;
create sequence access_event_ordinals;
