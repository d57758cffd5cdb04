#!/usr/bin/env bash
# Bun 1.4.5: Bun.serve runs no timer while more than 1,024 connections keep being ready.
# Expected: a timer that is due runs after the requests that were ready when it became due.
# Seen: with 256 keep-alive clients that send again as soon as they are answered, at most some hundred requests are served
# between two runs of a timer of 5 ms. With 3,000 such clients it is some 49,000: the loop takes up to 48 batches of 1,024
# ready connections before it comes to timers, setImmediate and the results of other threads. A client that was
# answered is ready again within that time. With a handler of 20 us that is a second, and with one of 100 us 5 s, in which
# no deadline of the program passes. A handler that makes requests beyond 512 wait for a setImmediate keeps the timer in time,
# because a connection whose request waits is not ready.
# Consequence: timeouts, heartbeats and answers that need a thread are late by seconds, only with thousands of busy clients.
# Upstream: pull request 28823 of Bun (merged in April 2026) added the batches, so that one turn serves all that is ready.
# Exits with 1 when this changes. Needs npm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bun@1.4.5 >/dev/null
cat >server.mjs <<'JS'
const inTurns = process.argv[2] === 'in turns'
let served = 0
let most = 0
let waiting = []
let inTurn = 0
const answer = () => {
  served += 1
  const untilMs = performance.now() + 0.02
  while (performance.now() < untilMs);
  return new Response('ok')
}
const server = Bun.serve({
  port: 0,
  hostname: '127.0.0.1',
  fetch: (request) => {
    if (request.url.endsWith('/most')) return new Response(String(most))
    if (request.url.endsWith('/reset')) {
      most = 0
      return new Response('ok')
    }
    inTurn += 1
    if (!inTurns || inTurn <= 512) return answer()
    if (waiting.length === 0) {
      setImmediate(() => {
        inTurn = 0
        for (const resolve of waiting.splice(0)) resolve()
      })
    }
    return new Promise((resolve) => waiting.push(resolve)).then(answer)
  },
})
setInterval(() => {
  most = Math.max(most, served)
  served = 0
}, 5)
console.log(server.port)
JS
cat >clients.mjs <<'JS'
const [port, count] = process.argv.slice(2).map(Number)
const bytes = Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
let open = 0
const socket = { data: (connection) => connection.write(bytes), open: (connection) => { open += 1; connection.write(bytes) } }
for (let at = 0; at < count; at += 100) {
  const opened = Array.from({ length: Math.min(100, count - at) }, () => Bun.connect({ hostname: '127.0.0.1', port, socket }))
  await Promise.all(opened)
}
const ask = async (path) => (await fetch(`http://127.0.0.1:${port}${path}`)).text()
await ask('/reset')
await Bun.sleep(6_000)
console.log(await ask('/most'))
process.exit(0)
JS
ulimit -n 8192 2>/dev/null || true
measure() {
  node_modules/.bin/bun server.mjs "$1" >port &
  server=$!
  for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
  node_modules/.bin/bun clients.mjs "$(cat port)" "$2"
  kill $server
  rm port
}
few=$(measure plain 256)
many=$(measure plain 3000)
turns=$(measure 'in turns' 3000)
echo "Bun $(node_modules/.bin/bun --version)"
echo "most requests between two runs of a timer: $few with 256 clients, $many with 3,000, $turns with 3,000 and turns"
[ "$few" -lt 5000 ] && [ "$many" -gt 20000 ] && [ "$turns" -lt 10000 ]
