-- What people upload: media of nobody's generation, its uploader's alone. And when bytes go: as soon as nothing refers to
-- them, without looking through all there are.

alter table media
  alter column generation_id drop not null,
  alter column position drop not null,
  add constraint media__output check ((generation_id is null) = (position is null));

create index media__uploads on media (owner_id, id) where generation_id is null;

-- Whoever is about to keep an object claims it first, and gives up the claim in the transaction that refers to the object.
-- One that is older than an hour has come to nothing.
create table media_claims (
  id uuid primary key,
  sha256 text not null references media_objects (sha256),
  claimed_at timestamptz not null default clock_timestamp()
);

create index media_claims__sha256 on media_claims (sha256);
create index media_claims__claimed_at on media_claims (claimed_at);

-- What is being kept at this moment, and what came to nothing before.
insert into media_claims (id, sha256, claimed_at)
select gen_random_uuid(), sha256, claimed_at from media_objects o
 where not exists (select from media m where m.sha256 = o.sha256);
alter table media_objects drop column claimed_at;

-- Objects that lost somebody who referred to them: to be looked at, and let go if that was the last. Whoever takes a
-- reference away writes or renews the row in the same transaction, so that nobody can take it for done in between.
create table media_orphans (
  sha256 text primary key references media_objects (sha256) on delete cascade,
  since timestamptz not null default clock_timestamp()
);

create index media_orphans__since on media_orphans (since);

-- Always in one order, so that two who do this wait for each other and nothing worse.
create function note_media_orphans(lost text[]) returns void language plpgsql as $$
begin
  if lost is null then return; end if;
  insert into media_orphans as o (sha256) select distinct unnest(lost) as sha256 order by sha256
      on conflict (sha256) do update set since = excluded.since;
  perform pg_notify('velro', 'orphans');
end $$;

create function orphans_of_media() returns trigger language plpgsql as $$
begin
  perform note_media_orphans((select array_agg(sha256) from gone));
  return null;
end $$;

create trigger orphans after delete on media
  referencing old table as gone for each statement execute function orphans_of_media();

-- What a generation is to be made from. The bytes stay until its job is over, whatever becomes of the media.
alter table generations
  add column reference_media_id uuid references media (id) on delete set null;
create index generations__reference_media_id on generations (reference_media_id) where reference_media_id is not null;

alter table generation_jobs
  add column reference_sha256 text references media_objects (sha256);
create index generation_jobs__reference_sha256 on generation_jobs (reference_sha256) where reference_sha256 is not null;

create function orphans_of_job() returns trigger language plpgsql as $$
begin
  perform note_media_orphans(array[old.reference_sha256]);
  return null;
end $$;

create trigger orphans after delete on generation_jobs
  for each row when (old.reference_sha256 is not null) execute function orphans_of_job();
