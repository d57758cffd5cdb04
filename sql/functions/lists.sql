-- Pages of the lists of resources by user and of users by resource: the rules of "decide" as SQL. The action bits and what
-- they imply come from the program (src/access/policy/matrix.ts); tests compare every list with the decisions about each
-- of its resources.
--
-- A page is the first "size" ids below "before", newest first. Each source of access (ownership, shared projects, public
-- projects) is read from an index in that order and no further than the page, and the pages are merged. So a page costs the
-- same in a table of any size. Counted and sorted are only ids that may be part of the page.
--
-- The functions read in the snapshot of the statement that calls them, and lock nothing. Their settings make one plan for all
-- parameters, on each connection: planning costs more than reading. They keep that plan on the indexes, because it may have
-- been made while a table was empty. Where a condition has to be tested for each row of an index scan, it is a subquery with
-- one value, which the planner cannot turn into a join.

-- The ids of several pages as one, without duplicates.
create or replace function merge_page(ids uuid[], size integer) returns uuid[] language plpgsql immutable
  set search_path from current as $$
begin
  return array(select distinct id from unnest(ids) id order by id desc limit size);
end $$;
comment on function merge_page(uuid[], integer) is 'The newest of these ids, each once, in descending order.';

create or replace function accessible_projects(
  person uuid, wanted integer, to_anyone boolean, before uuid, size integer
) returns uuid[] language plpgsql stable
  set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_bitmapscan = off as $$
declare
  page uuid[];
  opened uuid[];
begin
  perform from users where id = person and status = 'active';
  if not found then return '{}'; end if;
  page := array(
    select project_id from project_access
     where user_id = person and project_id < before and actions & wanted <> 0 order by project_id desc limit size);
  if not to_anyone then return page; end if;
  opened := array(
    select id from projects
     where visibility = 'public' and id < before and id > coalesce(page[size], lowest_id())
     order by id desc limit size);
  return case when opened = '{}' then page else merge_page(page || opened, size) end;
end $$;
comment on function accessible_projects(uuid, integer, boolean, uuid, integer) is
  'A page of the projects on which an active user may do the wanted actions. to_anyone: any user may do them on a public project.';

-- Each source is read as far as the page at most, and the public ones without a look at their projects. Shared projects are
-- read in parts: first a few of the newest generations of each, about twice a page in all. "last" is the newest id at which
-- that ended: where it is part of the page, all that may be is read. At the end the projects of the public ones in the page
-- are looked at; where one is not public any more, all is read again, with a look at each.
create or replace function accessible_generations(
  person uuid, wanted integer, to_owner boolean, to_anyone boolean, before uuid, size integer
) returns uuid[] language plpgsql stable
  set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_bitmapscan = off set enable_hashagg = off as $$
declare
  page uuid[];
  last uuid;
  below uuid;
  looking boolean := false;
begin
  -- Ownership decides alone: the owner has no access through the project, which only an action not given to owners shows.
  if not to_owner then return accessible_generations_of_others(person, wanted, before, size); end if;
  loop
    with own as materialized (
      select id from generations where owner_id = person and id < before order by id desc limit size
    ), opened as materialized (
      select l.id from public_generations l
       where to_anyone and l.id < before
         and (not looking or (select p.id from projects p where p.id = l.project_id and p.visibility = 'public') is not null)
       order by l.id desc limit size
    ), shared as materialized (
      select project_id as id from project_access where user_id = person and actions & wanted <> 0
    ), bounds as materialized (
      select greatest((select id from own offset size - 1 limit 1), (select id from opened offset size - 1 limit 1),
                      lowest_id()) as below,
             least(size, 2 + 2 * size / greatest((select count(*)::integer from shared), 1)) as part
    ), heads as materialized (
      select array(
               select g.id from generations g
                where g.project_id = s.id and g.id < before and g.id > (select b.below from bounds b)
                order by g.id desc limit (select b.part from bounds b)) as ids
        from shared s
    )
    select array(
             select distinct id
               from (select id from own union all select id from opened union all select unnest(ids) from heads) found
              order by id desc limit size),
           (select ids[(select b.part from bounds b)] from heads
             where ids[(select b.part from bounds b)] is not null order by 1 desc limit 1)
      into page, last from users where id = person and status = 'active';
    if page is null then return '{}'; end if;
    below := coalesce(page[size], lowest_id());
    if last > below then
      page := array(
        select distinct id
          from (select unnest(page) as id
                union all
                select g.id from project_access a
                 cross join lateral (
                   select id from generations
                    where project_id = a.project_id and id < before and id > below order by id desc limit size) g
                 where a.user_id = person and a.actions & wanted <> 0) found
         order by id desc limit size);
      below := coalesce(page[size], lowest_id());
    end if;
    exit when looking or not to_anyone;
    exit when not exists (
      select from public_generations l
       where l.id < before and l.id >= below
         and (select p.id from projects p where p.id = l.project_id and p.visibility = 'public') is null);
    looking := true;
  end loop;
  return page;
end $$;
comment on function accessible_generations(uuid, integer, boolean, boolean, uuid, integer) is
  'A page of the generations on which an active user may do the wanted actions. to_owner: their owner may do them, to_anyone: any user may do them in a public project.';

create or replace function accessible_generations_of_others(
  person uuid, wanted integer, before uuid, size integer
) returns uuid[] language plpgsql stable
  set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_bitmapscan = off set enable_hashagg = off as $$
declare
  page uuid[];
  last uuid;
  below uuid;
begin
  with shared as materialized (
    select project_id as id from project_access where user_id = person and actions & wanted <> 0
  ), bounds as materialized (
    select least(size, 2 + 2 * size / greatest((select count(*)::integer from shared), 1)) as part
  ), heads as materialized (
    select array(
             select g.id from generations g
              where g.project_id = s.id and g.id < before and g.owner_id <> person
              order by g.id desc limit (select b.part from bounds b)) as ids
      from shared s
  )
  select array(select id from (select unnest(ids) as id from heads) found order by id desc limit size),
         (select ids[(select b.part from bounds b)] from heads
           where ids[(select b.part from bounds b)] is not null order by 1 desc limit 1)
    into page, last from users where id = person and status = 'active';
  if page is null then return '{}'; end if;
  below := coalesce(page[size], lowest_id());
  if last > below then
    page := array(
      select g.id from project_access a
       cross join lateral (
         select id from generations
          where project_id = a.project_id and id < before and id > below and owner_id <> person
          order by id desc limit size) g
       where a.user_id = person and a.actions & wanted <> 0
       order by g.id desc limit size);
    if below > lowest_id() then page := array(select unnest(page || below) id order by id desc limit size); end if;
  end if;
  return page;
end $$;
comment on function accessible_generations_of_others(uuid, integer, uuid, integer) is
  'As accessible_generations, for actions that the owner of a generation may not do: those of others in shared projects.';

-- Who may do something on a resource: users with an active account, as its owner or through a team. "everyone": any user may,
-- because the project is public; with "listing_everyone" the page is then one of all active users.
create or replace function users_with_access(
  kind text, resource uuid, wanted integer, to_owner boolean, to_anyone boolean, listing_everyone boolean,
  before uuid, size integer, out everyone boolean, out page uuid[]
) language plpgsql stable
  set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_bitmapscan = off as $$
declare
  project uuid := resource;
  generation uuid := resource;
  owner uuid;
begin
  if kind = 'media' then
    -- Media follow their generation once it is completed. Uploads have none.
    select m.generation_id, m.owner_id into generation, owner from media m where m.id = resource;
    if generation is not null then
      select g.owner_id, g.project_id into owner, project from generations g
       where g.id = generation and g.status = 'completed';
    else
      project := null;
    end if;
  elsif kind = 'generation' then
    select g.owner_id, g.project_id into owner, project from generations g where g.id = resource;
  end if;
  everyone := to_anyone and exists (select from projects p where p.id = project and p.visibility = 'public');
  if everyone and listing_everyone then
    page := array(select u.id from users u where u.status = 'active' and u.id < before order by u.id desc limit size);
    return;
  end if;
  page := array(
    select a.user_id from project_access a
     where a.project_id = project and a.user_id < before and a.actions & wanted <> 0
       and a.user_id is distinct from owner
       and (select u.status from users u where u.id = a.user_id) = 'active'
     order by a.user_id desc limit size);
  -- For the owner of a generation, ownership decides alone.
  if to_owner and owner < before and (select u.status from users u where u.id = owner) = 'active' then
    page := merge_page(page || owner, size);
  end if;
end $$;
comment on function users_with_access(text, uuid, integer, boolean, boolean, boolean, uuid, integer) is
  'A page of the active users who may do the wanted actions on a resource as its owner or through a team, and whether every user may, because it is in a public project.';

-- The generations of public projects, which public_generations holds by id, so that a page of them is read in order.
create or replace view public_generations_expected as
  select g.id, g.project_id from projects p join generations g on g.project_id = p.id where p.visibility = 'public';
comment on view public_generations_expected is 'The rows that public_generations must hold.';

-- A new generation, one that is moved, and a project whose visibility changes: each locks the access to the project and then
-- reads what the other has committed. Rows inserted otherwise are skipped, by the triggers given_rows and given_statement.
create or replace function list_new_generations() returns trigger language plpgsql set search_path from current as $$
begin
  perform share_project_access(array(select distinct project_id from added where project_id is not null));
  insert into public_generations (id, project_id)
  select a.id, a.project_id from added a join projects p on p.id = a.project_id and p.visibility = 'public'
      on conflict (id) do update set project_id = excluded.project_id;
  return null;
end $$;
comment on function list_new_generations() is 'Adds new generations of public projects to public_generations.';

create or replace function list_changed_generation() returns trigger language plpgsql set search_path from current as $$
begin
  perform share_project_access(array_remove(array[old.project_id, new.project_id], null));
  delete from public_generations where id = old.id;
  if tg_op = 'UPDATE' then
    insert into public_generations (id, project_id)
    select new.id, p.id from projects p where p.id = new.project_id and p.visibility = 'public'
        on conflict (id) do update set project_id = excluded.project_id;
  end if;
  return null;
end $$;
comment on function list_changed_generation() is
  'Keeps public_generations when a generation is moved to another project or deleted.';

create or replace function list_generations_of_project() returns trigger language plpgsql set search_path from current as $$
begin
  perform require_read_committed();
  perform lock_project_access(new.id);
  if new.visibility = 'public' then
    insert into public_generations (id, project_id)
    select g.id, g.project_id from generations g where g.project_id = new.id
        on conflict (id) do update set project_id = excluded.project_id;
  else
    delete from public_generations where id in (select g.id from generations g where g.project_id = new.id);
  end if;
  return null;
end $$;
comment on function list_generations_of_project() is
  'Adds the generations of a project that became public to public_generations, or removes them.';

create or replace function unlist_generations() returns trigger language plpgsql set search_path from current as $$
begin
  delete from public_generations;
  return null;
end $$;
comment on function unlist_generations() is 'Empties public_generations after generations was truncated.';

-- For the scheduled check, which found rows that differ.
create or replace function mend_public_generations(mended uuid[]) returns void language plpgsql set search_path from current as $$
begin
  perform share_project_access(array(
    select project_id from generations where id = any (mended) and project_id is not null));
  perform set_config('velro.computes_access', 'on', true);
  delete from public_generations where id = any (mended);
  insert into public_generations (id, project_id)
  select e.id, e.project_id from public_generations_expected e where e.id = any (mended)
      on conflict (id) do update set project_id = excluded.project_id;
  perform set_config('velro.computes_access', '', true);
end $$;
comment on function mend_public_generations(uuid[]) is 'Recomputes public_generations for the given generations.';
