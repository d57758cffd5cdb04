#!/usr/bin/env bash
# Deno 2.9.6: if a reused connection closes without an answer, fetch sends the request again, also a POST. The server then has
# two orders, and the caller gets one answer of 200 and no error.
# Expected: an error, or a second attempt for idempotent methods only (RFC 9110, section 9.2.2).
# Seen: Deno sends POST, PATCH, PUT and GET twice, Bun 1.4.5 sends PUT and GET twice, and Node sends none twice. `Connection:
# close` does not prevent it, because that only closes the connection after this request. A stream as the body prevents it,
# and so does `Deno.createHttpClient({ poolMaxIdlePerHost: 0 })`, which keeps no connection.
# The server below answers the first request on a connection. It reads the second request completely and closes, like a
# process that is killed after it has done the work. It answers if the same request arrives on another connection.
# Upstream: issue 35610 of Deno (closed) is about the first request on a connection, which this version sends once.
# Exits with 1 when this changes. Needs npm and Node 20 or later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit deno@2.9.6 bun@1.4.5 >/dev/null
cat >server.mjs <<'JS'
import { createServer } from 'node:net'

const received = {}
const server = createServer((socket) => {
  let text = ''
  socket.on('error', () => {})
  socket.on('data', (bytes) => {
    text += bytes
    // Each body ends with a full stop; a GET has none and carries its name in the path.
    const name = /^GET \/(\S+) .*\r\n\r\n$/s.exec(text)?.[1] ?? /\r\n\r\n(?:[0-9a-f]+\r\n)?([^.]+)\./s.exec(text)?.[1]
    if (name === undefined) return
    if (/transfer-encoding/i.test(text) && !text.endsWith('0\r\n\r\n')) return
    text = ''
    if (name === 'report') return void socket.end(`HTTP/1.1 200 OK\r\n\r\n${JSON.stringify(received)}`)
    received[name] = (received[name] ?? 0) + 1
    if (name.startsWith('second') && received[name] === 1) socket.end()
    else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat >client.mjs <<'JS'
const url = `http://127.0.0.1:${globalThis.Deno?.args[0] ?? process.argv[2]}`
const stream = (text) => new Blob([text]).stream()
const options = {
  POST: {},
  PATCH: {},
  PUT: {},
  GET: {},
  'POST with Connection: close': { headers: { connection: 'close' } },
  'POST of a stream': { duplex: 'half' },
}
const send = async (method, name, more) => {
  const body = method === 'GET' ? undefined : more.duplex ? stream(`${name}.`) : `${name}.`
  const response = await fetch(method === 'GET' ? `${url}/${name}` : url, { method, body, ...more })
  await response.text()
  return response.status
}
const answers = {}
let number = 0
for (const [name, more] of Object.entries(options)) {
  const method = name.split(' ')[0]
  number += 1
  // The first request opens a connection, and the second one uses it again.
  await send('POST', `first${number}`, {})
  await new Promise((resolve) => setTimeout(resolve, 100))
  answers[name] = await send(method, `second${number}`, more).catch(() => 'an error')
}
const received = await (await fetch(`${url}/report`)).json()
number = 0
for (const name of Object.keys(options)) console.log(`${name}: received ${received[`second${++number}`]}, answer ${answers[name]}`)
JS
run() {
  node server.mjs >port &
  local server=$!
  until [ -s port ]; do sleep 0.1; done
  timeout 60 "$@" "$(cat port)" || true
  kill "$server"
  wait "$server" 2>/dev/null || true
  rm port
}
seen=$(
  echo "Deno $(node_modules/.bin/deno eval 'console.log(Deno.version.deno)')"
  run node_modules/.bin/deno run --allow-net --no-prompt client.mjs
  echo "Bun $(node_modules/.bin/bun --version)"
  run node_modules/.bin/bun client.mjs
  echo Node
  run node client.mjs
)
echo "$seen"
[ "$seen" = 'Deno 2.9.6
POST: received 2, answer 200
PATCH: received 2, answer 200
PUT: received 2, answer 200
GET: received 2, answer 200
POST with Connection: close: received 2, answer 200
POST of a stream: received 1, answer an error
Bun 1.4.5
POST: received 1, answer an error
PATCH: received 1, answer an error
PUT: received 2, answer 200
GET: received 2, answer 200
POST with Connection: close: received 1, answer an error
POST of a stream: received 1, answer an error
Node
POST: received 1, answer an error
PATCH: received 1, answer an error
PUT: received 1, answer an error
GET: received 1, answer an error
POST with Connection: close: received 1, answer an error
POST of a stream: received 1, answer an error' ]
