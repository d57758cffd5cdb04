-- An account as its owner sees it is cached in memory, and invalidated by its own triggers. Instances of the version before
-- receive the keys, for which they hold nothing.
-- functions: 66dc473397c6cdb5ead487e81ed90db0a9227d54f71a7460b6a121850c4f2c40
create or replace function note_changed_profiles() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger touched_profile_by_update after update on users
  referencing old table as before new table as after for each statement execute function note_changed_profiles();
create trigger touched_profile_by_delete after delete on users
  referencing old table as before for each statement execute function note_removed('profile');
