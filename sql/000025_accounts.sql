-- Teams pass to another member when their owner is suspended or deleted; a lost answer of a refresh can be retried for five
-- minutes; writes decide again under locks; addresses have one spelling; the check of effective access mends. Only adds: the version before runs on it.
-- functions: 636914d1067eb6e46f719c386e46991699d24521b61af4c0a73cf6046f7a20c4

alter table refresh_tokens
  add column access_token_id text,
  add column access_token_used_at timestamptz;
comment on column refresh_tokens.access_token_id is 'The jti of the access token that was issued with this token. Null for the first one of a session.';
comment on column refresh_tokens.access_token_used_at is 'When that access token was first seen by an instance. Null: it was not used yet.';

create function pass_teams_of_user() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger pass_teams after update of status on users
  for each row when (old.status is distinct from new.status and new.status <> 'active')
  execute function pass_teams_of_user();

-- Teams of owners who were deleted or suspended before.
do $$
declare
  owned record;
  successor uuid;
begin
  for owned in
    select m.team_id, m.user_id, u.status = 'deleted' as leaving
      from team_members m join users u on u.id = m.user_id
     where m.role = 'owner' and u.status <> 'active' order by m.team_id
  loop
    perform from teams where id = owned.team_id for no key update;
    select m.user_id into successor
      from team_members m join users u on u.id = m.user_id
     where m.team_id = owned.team_id and m.user_id <> owned.user_id
       and (u.status = 'active' or owned.leaving and u.status = 'suspended')
     order by u.status = 'active' desc, array_position(array['admin', 'editor', 'contributor', 'viewer'], m.role),
              m.joined_at, m.user_id
     limit 1;
    if successor is not null then
      update team_members set role = 'admin' where team_id = owned.team_id and user_id = owned.user_id;
      update team_members set role = 'owner' where team_id = owned.team_id and user_id = successor;
      if owned.leaving then
        delete from team_members where team_id = owned.team_id and user_id = owned.user_id;
      end if;
    elsif owned.leaving then
      delete from project_grants where team_id = owned.team_id;
      delete from teams where id = owned.team_id;
    end if;
  end loop;
end $$;

-- Domains stored in Unicode, which a start converts. They are rare, so the index is small.
create index users__unicode_domain on users (id)
  where octet_length(split_part(email, '@', 2)) <> char_length(split_part(email, '@', 2));
create index team_invitations__unicode_domain on team_invitations (id)
  where status = 'pending'
    and octet_length(split_part(email, '@', 2)) <> char_length(split_part(email, '@', 2));

create table access_checks (
  name text not null,
  due_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  took interval,
  constraint access_checks__pkey primary key (name)
);
comment on table access_checks is 'When each check of effective access is due, so that one instance runs it and the others skip it.';
comment on column access_checks.took is 'Duration of the last run. The next one is due after 60 times this, but after 30 seconds at the earliest and an hour at the latest.';
insert into access_checks (name) values ('effective_access');
