-- Orphans: stored objects that may have lost their last reference. The sweeper deletes those that no row refers to.

-- The transaction that removes a reference inserts the row or renews its time, so an object that loses a reference while
-- it is being swept is looked at again. Rows are written by sha256, so concurrent transactions wait for each other without
-- a deadlock. Costs one row for each object and one notification.
create or replace function note_media_orphans(lost text[]) returns void language plpgsql set search_path from current as $$
begin
  if lost is null then return; end if;
  insert into media_orphans as o (sha256) select distinct unnest(lost) as sha256 order by sha256
      on conflict (sha256) do update set since = excluded.since;
  perform pg_notify('velro', 'orphans');
end $$;
comment on function note_media_orphans(text[]) is
  'Records objects that lost a reference, and notifies the sweepers when the transaction commits.';

create or replace function orphans_of_media() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_media_orphans((select array_agg(sha256) from gone));
  return null;
end $$;
comment on function orphans_of_media() is
  'Records the objects of deleted media as possible orphans.';

create or replace function orphans_of_job() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_media_orphans(array[old.reference_sha256]);
  return null;
end $$;
comment on function orphans_of_job() is
  'Records the reference object of a deleted job as a possible orphan.';
