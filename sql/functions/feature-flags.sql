-- The triggers that record the invalidation keys of the facts that feature flags are evaluated by: all flags, which are one fact,
-- and the teams of a user. They run once for each statement, lock nothing, and read only the rows that the statement changed.

-- The id in the key is that of the fact, which is made of all rows.
create or replace function note_changed_feature_flags() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched(concat('feature_flags:', lowest_id(), e'\n'));
  return null;
end $$;
comment on function note_changed_feature_flags() is
  'Records the key of all feature flags.';

-- `changed` has the rows that were inserted or deleted.
create or replace function note_changed_memberships() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(distinct concat('memberships:', user_id, e'\n'), '') from changed));
  return null;
end $$;
comment on function note_changed_memberships() is
  'Records memberships:<user> for each user who was added to a team or removed from one.';

create or replace function note_moved_memberships() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((
    select string_agg(distinct concat('memberships:', user_id, e'\n'), '')
      from before b full join after a using (team_id, user_id)
     where a.role is null or b.role is null));
  return null;
end $$;
comment on function note_moved_memberships() is
  'Records memberships:<user> for each membership whose team or user an update changed. A change of the role records nothing.';
