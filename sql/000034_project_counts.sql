-- The projects of an account have a counter, as its stored bytes have. The version before runs on it: its projects are counted.
-- functions: 8a99ff7101ed83cdb13f32242a77647a27794c88283566edc4077a27440f7a0f

alter table account_usage add column projects bigint not null default 0;
comment on column account_usage.projects is 'Projects that the account owns.';
drop function if exists recount_media_bytes();

create or replace function count_projects() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger usage_by_delete after delete on projects
  referencing old table as before for each statement execute function count_projects();
create trigger usage_by_insert after insert on projects
  referencing new table as after for each statement execute function count_projects();
create trigger usage_by_truncate after truncate on projects for each statement execute function count_projects();
create trigger usage_by_update after update on projects
  referencing old table as before new table as after for each statement execute function count_projects();

select set_config('velro.counts_usage', 'on', true);
insert into account_usage as u (user_id, projects)
select owner_id, count(*) from projects group by owner_id
    on conflict (user_id) do update set projects = excluded.projects;
select set_config('velro.counts_usage', '', true);
