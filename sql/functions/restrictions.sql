-- The mode of the service and the blocks of addresses, networks, accounts and service keys. The instances read them as facts: the
-- mode and the blocked networks from the one row of restrictions, a block of an account or a key with that.

create or replace function note_changed_restrictions() returns trigger language plpgsql set search_path from current as $$
begin
  perform note_touched((select string_agg(concat('mode:', id, e'\n', 'blocked_networks:', id, e'\n'), '') from after));
  return null;
end $$;
comment on function note_changed_restrictions() is
  'Records mode:<id> and blocked_networks:<id> when the row of restrictions is inserted or updated.';

-- Locks before it reads, so that of two changes of blocks of one target the second sees the first: accounts, keys (with the
-- advisory lock under which services write), the row of restrictions, in this order.
create or replace function apply_blocks() returns trigger language plpgsql set search_path from current as $$
begin
  perform from users where id in (select user_id from changed) order by id for no key update;
  update users u set blocked = not u.blocked
   where u.id in (select user_id from changed) and u.blocked <> exists (select from blocks b where b.user_id = u.id);
  perform pg_advisory_xact_lock(hashtextextended(key_id::text, service_key_lock_seed()))
     from (select distinct key_id from changed where key_id is not null order by key_id) keys;
  update service_keys k set blocked = not k.blocked
   where k.id in (select key_id from changed) and k.blocked <> exists (select from blocks b where b.key_id = k.id);
  if exists (select from changed where network is not null) then
    perform from restrictions for no key update;
    update restrictions
       set networks = (select coalesce(jsonb_agg(distinct network::text), '[]') from blocks where network is not null);
  end if;
  return null;
end $$;
comment on function apply_blocks() is
  'Keeps users.blocked, service_keys.blocked and restrictions.networks when blocks are added or removed.';

-- The lock is shared by registrations and taken by a change of the mode, which waits for those that began before and is seen by
-- those that begin later. It is advisory, because such locks are granted in order: registrations cannot hold a mode up.
create or replace function mode_for_registration() returns text language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock_shared(mode_lock_key());
  return (select mode from restrictions);
end $$;
comment on function mode_for_registration() is
  'The mode, which does not change until the transaction ends. Null, where it is unknown.';
