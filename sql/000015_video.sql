-- Films beside pictures: how long one lasts is told with what it is.

alter table media_objects
  -- Null for pictures.
  add column duration_ms integer,
  add constraint media_objects__duration_ms check (duration_ms > 0),
  add constraint media_objects__film check ((duration_ms is not null) = (content_type like 'video/%'));
