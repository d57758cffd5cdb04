-- What is asked about most, so that an instance that starts, and one where somebody signs in, can fetch it ahead; and
-- figures about access for operators.
--
-- Two real materialized views stand here, beside project_access, which is never stale: nothing in them decides anything.
-- They say what is worth fetching and what operators look at, so they may be minutes old. Instances refresh them on a
-- schedule, one at a time and without keeping a reader waiting.

-- Who asked about what, and how often: a sample of all decisions, scaled up, written in batches off the path of requests.
-- A row is a guess and may be lost; it has no foreign keys, because who asks is not to wait for a lock on anybody. What is
-- left of rows whose people or things are gone, and of those that have cooled down, is swept up on the schedule.
create table access_heat (
  user_id uuid not null,
  resource_type text not null,
  resource_id uuid not null,
  -- About how many questions, as of last_at. It fades from there: what is left is computed, so nothing has to be rewritten
  -- for growing older.
  hits double precision not null,
  last_at timestamptz not null,
  constraint access_heat__pkey primary key (user_id, resource_type, resource_id),
  constraint access_heat__resource_type check (resource_type in ('project', 'generation')),
  constraint access_heat__hits check (hits > 0)
) with (fillfactor = 80);

-- What is left of so many hits by now: half of them every hour. Past 60 hours it makes no difference any more, and a power
-- that is too small is an error.
create function heat_left(hits double precision, last_at timestamptz) returns double precision
  language sql stable parallel safe
  return hits * power(0.5::double precision,
                      least(greatest(extract(epoch from now() - last_at) / 3600, 0), 60)::double precision);

-- The rows that are worth keeping: of active people, about things that are there, not yet cold.
create view access_heat_alive as
  select h.user_id, h.resource_type, h.resource_id, heat_left(h.hits, h.last_at) as heat
    from access_heat h
    join users u on u.id = h.user_id and u.status = 'active'
    left join projects p on h.resource_type = 'project' and p.id = h.resource_id
    left join generations g on h.resource_type = 'generation' and g.id = h.resource_id
   where (p.id is not null or g.id is not null) and heat_left(h.hits, h.last_at) >= 1;

-- What an instance fetches when it starts, the hottest first.
create materialized view hottest_pairs as
  select user_id, resource_type, resource_id, heat
    from access_heat_alive
   order by heat desc limit 5000;

-- A concurrent refresh finds its rows by this.
create unique index hottest_pairs__pair on hottest_pairs (user_id, resource_type, resource_id);

-- How many people may do what on each project by owning it or through teams (what is public comes on top), and what is in
-- it. The bits are those of access/model; a test holds that.
create materialized view access_statistics as
  select p.id as project_id, p.owner_id, p.visibility,
         coalesce(a.may_read, 0) as may_read, coalesce(a.may_download, 0) as may_download,
         coalesce(a.may_create, 0) as may_create, coalesce(a.may_write, 0) as may_write,
         coalesce(a.may_share, 0) as may_share, coalesce(a.may_delete, 0) as may_delete,
         coalesce(a.may_admin, 0) as may_admin,
         coalesce(t.teams, 0) as teams,
         coalesce(g.generations, 0) as generations, coalesce(g.completed, 0) as completed, g.newest_at
    from projects p
    left join (
      select project_id,
             count(*) filter (where actions & 1 <> 0) as may_read,
             count(*) filter (where actions & 2 <> 0) as may_download,
             count(*) filter (where actions & 4 <> 0) as may_create,
             count(*) filter (where actions & 8 <> 0) as may_write,
             count(*) filter (where actions & 16 <> 0) as may_share,
             count(*) filter (where actions & 32 <> 0) as may_delete,
             count(*) filter (where actions & 64 <> 0) as may_admin
        from project_access join users u on u.id = user_id and u.status = 'active'
       group by project_id
    ) a on a.project_id = p.id
    left join (select project_id, count(*) as teams from project_grants group by project_id) t on t.project_id = p.id
    left join (
      select project_id, count(*) as generations, count(*) filter (where status = 'completed') as completed,
             max(created_at) as newest_at
        from generations where project_id is not null group by project_id
    ) g on g.project_id = p.id;

create unique index access_statistics__project_id on access_statistics (project_id);

-- When each was refreshed last, so that of many instances with the same schedule one does it, and how long that took.
create table view_refreshes (
  view text not null,
  refreshed_at timestamptz not null,
  took interval not null,
  constraint view_refreshes__pkey primary key (view)
);
