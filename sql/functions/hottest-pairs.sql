-- Built again whenever this file changes. Refreshed on a schedule, one instance at a time, without blocking readers; it may
-- be minutes old.
drop materialized view if exists hottest_pairs;
create materialized view hottest_pairs as
  select user_id, resource_type, resource_id, heat
    from access_heat_alive
   order by heat desc limit max_hottest_pairs();
comment on materialized view hottest_pairs is
  'The most frequent pairs of user and resource, which an instance prefetches when it starts. Refreshed on a schedule.';

-- A concurrent refresh needs a unique index.
create unique index hottest_pairs__pair on hottest_pairs (user_id, resource_type, resource_id);
