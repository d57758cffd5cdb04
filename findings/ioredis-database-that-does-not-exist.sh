#!/usr/bin/env bash
# ioredis 6.0.0 (and 5.8.2): a client that is configured for database 16 works in database 0 if Redis has the usual 16
# databases, 0 to 15. The same happens if the user of the client has no right to SELECT.
# Expected: connect() fails, or each command fails, as with a wrong password.
# Seen: connect() resolves and the client becomes `ready`. Before that it emits one `error` event, which many programs only
# log. Then SET writes into database 0, and FLUSHDB empties it. A call of `select(16)` is rejected.
# Consequence: two environments that share a Redis and should use a database each share database 0. To detect it, treat an
# `error` event before `ready` as fatal, or read `db=` of CLIENT INFO.
# Upstream: issues 74 and 1213 of ioredis are about the error event, not about the database that is used.
# Exits with 1 when this changes. Needs npm, Node and redis-server.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit ioredis@6.0.0 ioredis5@npm:ioredis@5.8.2 >/dev/null
redis-server --version | cut -d' ' -f1-3
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' --dir "$folder" >log &
until [ -S redis.sock ]; do sleep 0.1; done
cat >probe.mjs <<'JS'
import { Redis as Redis6 } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'

const path = 'redis.sock'
const admin = new Redis6({ path })
await admin.acl('SETUSER', 'limited', 'on', '>secret', '~*', '+@all', '-select')
const clients = {
  'database 15': { db: 15 },
  'database 16': { db: 16 },
  'database 3, SELECT not allowed': { db: 3, username: 'limited', password: 'secret' },
  'wrong password': { db: 3, username: 'limited', password: 'wrong', retryStrategy: null },
}
const seen = {}
for (const [version, Redis] of Object.entries({ '6.0.0': Redis6, '5.8.2': Redis5 })) {
  for (const [name, options] of Object.entries(clients)) {
    await admin.flushall()
    await admin.set('of database 0', 'kept')
    const events = []
    const client = new Redis({ path, lazyConnect: true, ...options })
    for (const event of ['error', 'ready']) client.on(event, () => events.push(event))
    const connected = await client.connect().then(() => 'connected', () => 'refused')
    const set = await client.set('mine', name).catch(() => 'an error')
    const database = (await admin.get('mine')) === name ? 'database 0' : 'not database 0'
    const flushed = await client.flushdb().catch(() => 'an error')
    const kept = (await admin.get('of database 0')) ?? 'gone'
    seen[`${version}, ${name}`] = `${connected}, ${events.join(' then ')}, set: ${set}, in ${database}, flushdb: ${flushed}, key of database 0: ${kept}`
    if (name === 'database 15') {
      seen[`${version}, select(16) by hand`] = await client.select(16).catch((error) => error.message)
    }
    client.disconnect()
  }
}
admin.disconnect()
console.log(JSON.stringify(seen, null, 2))
const zero = 'connected, error then ready, set: OK, in database 0, flushdb: OK, key of database 0: gone'
const expected = {}
for (const version of ['6.0.0', '5.8.2']) {
  expected[`${version}, select(16) by hand`] = 'ERR DB index is out of range'
  expected[`${version}, database 15`] = 'connected, ready, set: OK, in not database 0, flushdb: OK, key of database 0: kept'
  expected[`${version}, database 16`] = zero
  expected[`${version}, database 3, SELECT not allowed`] = zero
  expected[`${version}, wrong password`] = 'refused, error, set: an error, in not database 0, flushdb: an error, key of database 0: kept'
}
process.exit(Object.keys(expected).every((name) => expected[name] === seen[name]) ? 0 : 1)
JS
timeout 60 node probe.mjs
