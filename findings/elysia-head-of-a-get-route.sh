#!/usr/bin/env bash
# Elysia 1.4.30: for a HEAD request Elysia runs the GET route, reads the whole body of its response, and replaces the
# Content-Length of the handler with the number of bytes that it read.
# Expected: the Content-Length of the handler, and no byte read.
# Seen: a stream of 5 MB is read to its end. If the handler recognizes HEAD and returns no body but the right Content-Length,
# the answer has a Content-Length of 0. A 304 has 0 as well. With `aot: false` HEAD is 404 on the same routes.
# Consequence: HEAD of a large file costs as much as GET, clients believe that a file is empty, and `aot` changes which
# methods a route has. A separate HEAD route beside each GET route avoids it.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
cat >probe.mjs <<'JS'
import { Elysia } from 'elysia'

let read
const stream = () =>
  new ReadableStream(
    {
      pull(controller) {
        if (read === 5_000_000) return controller.close()
        read += 50_000
        controller.enqueue(new Uint8Array(50_000))
      },
    },
    { highWaterMark: 0 },
  )
const headers = { 'content-length': '5000000' }
const file = () => new Response(stream(), { headers })
const careful = ({ request }) => (request.method === 'HEAD' ? new Response(null, { headers }) : file())
const seen = {}
for (const aot of [true, false]) {
  const app = new Elysia({ aot })
    .get('/file', file)
    .get('/files/:name', file)
    .get('/careful', careful)
    .get('/unchanged', () => new Response(null, { status: 304, headers: { ...headers, etag: '"a"' } }))
    .get('/own', file)
    .head('/own', careful)
  for (const path of ['/file', '/files/a', '/careful', '/unchanged', '/own']) {
    read = 0
    const { status, headers } = await app.handle(new Request(`http://localhost${path}`, { method: 'HEAD' }))
    seen[`aot ${aot}, HEAD ${path}`] = `${status}, content-length ${headers.get('content-length')}, read ${read}`
  }
}
console.log(JSON.stringify(seen, null, 2))
const expected = [
  '200, content-length 5000000, read 5000000',
  '200, content-length 5000000, read 5000000',
  '200, content-length 0, read 0',
  '304, content-length 0, read 0',
  '200, content-length 5000000, read 0',
  ...Array(4).fill('404, content-length null, read 0'),
  '200, content-length 5000000, read 0',
]
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
node probe.mjs
