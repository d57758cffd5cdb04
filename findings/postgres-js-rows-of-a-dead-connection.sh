#!/usr/bin/env bash
# postgres.js 3.4.9: when a connection dies after some rows of a result and before its end, the next connection's first
# result begins with as many empty entries. The rows themselves are lost, as they must be; their count is not reset.
# Seen with `fetch_types: false`. With type fetching the driver's own first query receives the empty entries instead.
# The server below speaks the Postgres protocol: it sends two rows and closes, as a server that is killed does; on the next
# connection it answers with one row.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit postgres@3.4.9 >/dev/null
cat >probe.mjs <<'JS'
import { createServer } from 'node:net'
import postgres from 'postgres'

const message = (type, ...parts) => {
  const body = Buffer.concat(parts)
  const length = Buffer.alloc(4)
  length.writeInt32BE(body.length + 4)
  return Buffer.concat([Buffer.from(type), length, body])
}
const int16 = (value) => Buffer.from([value >> 8, value & 255])
const int32 = (value) => Buffer.concat([int16(value >>> 16), int16(value & 65_535)])
const ready = message('Z', Buffer.from('I'))
const columns = message('T', int16(1), Buffer.from('n\0'), int32(0), int16(0), int32(25), int16(-1 & 65_535), int32(-1), int16(0))
const row = (text) => message('D', int16(1), int32(text.length), Buffer.from(text))
const complete = message('C', Buffer.from('SELECT 1\0'))

let connections = 0
const server = createServer((socket) => {
  const number = ++connections
  let started = false
  socket.on('error', () => {})
  socket.on('data', () => {
    if (!started) {
      started = true
      socket.write(Buffer.concat([message('R', int32(0)), ready]))
    } else if (number === 1) socket.end(Buffer.concat([columns, row('a'), row('b')]))
    else socket.write(Buffer.concat([columns, row('c'), complete, ready]))
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))

const sql = postgres({ host: '127.0.0.1', port: server.address().port, user: 'u', database: 'd', max: 1, fetch_types: false, ssl: false })
const first = await sql.unsafe('select n').simple().catch((error) => error.code)
const second = await sql.unsafe('select n').simple()
console.log(JSON.stringify({ first, second: [...second] }))
process.exit(first === 'CONNECTION_CLOSED' && JSON.stringify([...second]) === '[null,null,{"n":"c"}]' ? 0 : 1)
JS
timeout 30 node probe.mjs
