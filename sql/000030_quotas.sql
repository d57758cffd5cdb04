-- Quotas of accounts: stored bytes have a counter, jobs reserve what their outputs may take, a session may be ended by a newer
-- one, and a team may have up to 10,000 members. The version before runs on it: it checks no quota, and its media are counted.
-- functions: 79d71423ec3c24ba73831031feed166fcdbff0294538ab0cdb73c6934aae5b68

create table account_usage (
  user_id uuid not null,
  media_bytes bigint not null default 0,
  constraint account_usage_pkey primary key (user_id)
);
comment on table account_usage is 'What accounts hold, as far as it is not counted in an index. Maintained by triggers. No foreign key, because its lock would break the lock order.';
comment on column account_usage.media_bytes is 'Bytes of the uploads and outputs of the account, without thumbnails.';

alter table generation_jobs add column reserved_bytes bigint not null default 0,
  add constraint generation_jobs__reserved_bytes check (reserved_bytes >= 0);
comment on column generation_jobs.reserved_bytes is 'The most that its outputs may take, counted as stored while the job is unfinished.';

alter table sessions drop constraint sessions__end_reason,
  add constraint sessions__end_reason check (end_reason in ('logout', 'logout_all', 'ended_by_user', 'password_changed',
    'refresh_reused', 'account_closed', 'suspended', 'replaced'));

alter table teams drop constraint teams__max_members,
  add constraint teams__max_members check (max_members between 1 and 10000);

create or replace function count_media_bytes() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger usage_by_delete after delete on media
  referencing old table as before for each statement execute function count_media_bytes();
create trigger usage_by_insert after insert on media
  referencing new table as after for each statement execute function count_media_bytes();
create trigger usage_by_truncate after truncate on media for each statement execute function count_media_bytes();
create trigger usage_by_update after update on media
  referencing old table as before new table as after for each statement execute function count_media_bytes();

insert into account_usage (user_id, media_bytes)
select owner_id, sum(bytes) from media join media_objects using (sha256) group by owner_id;

create trigger given_rows before insert on account_usage
  for each row when (current_setting('velro.counts_usage', true) is distinct from 'on')
  execute function skip_computed_rows();
create trigger given_statement before insert on account_usage
  for each statement when (current_setting('velro.counts_usage', true) is distinct from 'on')
  execute function skip_computed_rows();
