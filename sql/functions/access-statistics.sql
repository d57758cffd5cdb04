-- Built again whenever this file changes, which reads all projects, access rows and generations. Refreshed on a schedule,
-- one instance at a time, without blocking readers; it may be minutes old. The bits are those of src/access/policy/matrix.ts;
-- a test compares them.
drop materialized view if exists access_statistics;
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
comment on materialized view access_statistics is
  'For each project: how many active users may do each action by owning it or through teams, and how many teams and generations it has.';

-- A concurrent refresh needs a unique index.
create unique index access_statistics__project_id on access_statistics (project_id);
