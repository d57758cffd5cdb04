-- The figures of instances, which each adds up with its own. Unlogged: they are written anew each second, and worth nothing after a
-- crash.

create unlogged table instance_figures (
  instance text primary key,
  taken_at timestamptz not null default now(),
  content  text not null
);

comment on table instance_figures is 'What each instance has measured, where the instances have no Redis in common. Replaced each second, and removed a minute after the instance has ended.';
comment on column instance_figures.content is 'JSON with histograms and counts, and a hash that authenticates them. Names no person.';

-- A row is replaced each second, and each time its content is stored anew.
alter table instance_figures set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000);
