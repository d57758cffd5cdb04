#!/usr/bin/env bash
# Elysia 1.4.30: a HEAD request for a GET route makes the whole body of the GET and reads it to the end. The number of bytes
# that it has read replaces the Content-Length of the handler.
# One expects the handler's length and nothing read: a handler names the length so that nobody needs to read the body.
# Seen: for HEAD a stream of 5 MB is read whole. A handler that knows HEAD, and answers without a body but with the length
# of the file, is sent with a length of 0, which means an empty file to a client. So is a 304. With `aot: false` HEAD is 404
# on the same routes, so `aot` changes which methods a route has.
# A way out is a route of its own for HEAD beside each route for GET.
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
