-- An account as its owner sees it is cached in memory, and invalidated by its own triggers. Instances of the version before
-- receive the keys, for which they hold nothing.
-- functions: 3bb147642697e7fad6a2bd9bcd947ee98c84ab25a09fd92c24d81b62d5b2ad85
create function note_changed_profiles() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger touched_profile_by_update after update on users
  referencing old table as before new table as after for each statement execute function note_changed_profiles();
create trigger touched_profile_by_delete after delete on users
  referencing old table as before for each statement execute function note_removed('profile');
