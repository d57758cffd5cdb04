-- Limits and lock keys of the functions, each under one name. The planner folds a call into its value, so a call costs
-- nothing at run time. The advisory lock keys of the program are in src/platform/lock-keys.ts.

create or replace function max_keys_per_event() returns integer
  language sql immutable parallel safe
  return 20000;
comment on function max_keys_per_event() is
  'An event with more invalidation keys than this is widened: first to one key for all grants of a user, then to * (everything).';

create or replace function max_notified_keys_length() returns integer
  language sql immutable parallel safe
  return 7800;
comment on function max_notified_keys_length() is
  'Longest list of invalidation keys sent inside a notification, in characters. Postgres refuses payloads of 8,000 bytes; the rest is for the event id and the instance.';

create or replace function max_setting_length() returns integer
  language sql immutable parallel safe
  return 8192;
comment on function max_setting_length() is
  'Length in characters from which recorded keys go to the next transaction setting, because appending copies the whole setting.';

create or replace function max_hottest_pairs() returns integer
  language sql immutable parallel safe
  return 5000;
comment on function max_hottest_pairs() is
  'How many rows the materialized view hottest_pairs has at most.';

create or replace function user_access_lock_seed() returns bigint
  language sql immutable parallel safe
  return 7301950218;
comment on function user_access_lock_seed() is
  'Hash seed of the advisory locks under which the effective access of one user, or to one project, changes.';

create or replace function usage_lock_seed() returns bigint
  language sql immutable parallel safe
  return 7301950219;
comment on function usage_lock_seed() is
  'Hash seed of the advisory locks under which what an account holds grows.';

create or replace function service_key_lock_seed() returns bigint
  language sql immutable parallel safe
  return 7301950221;
comment on function service_key_lock_seed() is
  'Hash seed of the advisory locks under which a service key is revoked. The writes of services that act with it hold them shared.';

create or replace function mode_lock_key() returns bigint
  language sql immutable parallel safe
  return 7301950230;
comment on function mode_lock_key() is
  'Key of the advisory lock under which the mode changes. Registrations hold it shared.';

create or replace function lowest_id() returns uuid
  language sql immutable parallel safe
  return '00000000-0000-0000-0000-000000000000'::uuid;
comment on function lowest_id() is 'Below every id.';

create or replace function max_users_per_webhook_event() returns integer
  language sql immutable parallel safe
  return 100;
comment on function max_users_per_webhook_event() is
  'How many users one access.changed event names at most; the change of more is several events.';
