#!/usr/bin/env bash
# Bun 1.4.5: Bun.serve changes the status of a response whose body is a slice of a file, unless the response has a header.
# Expected: the status that the handler gave.
# Seen: a GET for a slice is 206 with `bytes 3-9/*` although the request has no Range, also where the handler gave 404 or 201.
# HEAD of the same is 404 or 201. With `Range: bytes=2-4` the answer is the whole slice with the range 3-9. Any header of the
# handler, such as Content-Type, keeps the status. For a whole file Bun answers a Range itself, also if the handler sets
# `Accept-Ranges: none`, but only for GET with status 200.
# Consequence: clients that resume a download of a slice store wrong bytes, and whether they do depends on an unrelated
# header. Set the status and Content-Range for each slice.
# Upstream: according to issue 1668 of Bun (closed) an explicit status prevents the 206. Pull request 32794 (open) describes
# the 206 for slices without a status.
# Exits with 1 when this changes. Needs npm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bun@1.4.5 >/dev/null
printf 0123456789 >digits
cat >probe.mjs <<'JS'
const file = Bun.file('digits')
const part = () => file.slice(3, 10)
const routes = {
  part: () => new Response(part()),
  'part, 404': () => new Response(part(), { status: 404 }),
  'part, 201': () => new Response(part(), { status: 201 }),
  'part, 404 with a type': () => new Response(part(), { status: 404, headers: { 'content-type': 'text/plain' } }),
  'part, 206 with a range': () => new Response(part(), { status: 206, headers: { 'content-range': 'bytes 3-9/10' } }),
  'whole, Accept-Ranges: none': () => new Response(file, { headers: { 'accept-ranges': 'none' } }),
  'whole, 404': () => new Response(file, { status: 404 }),
}
const server = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: (request) => routes[decodeURIComponent(new URL(request.url).pathname.slice(1))]() })
const range = { range: 'bytes=2-4' }
const seen = {}
for (const name of Object.keys(routes)) {
  seen[name] = []
  for (const options of [{}, { headers: range }, { method: 'HEAD' }, { method: 'POST', headers: range }]) {
    const response = await fetch(new URL(encodeURIComponent(name), server.url), options)
    seen[name].push([response.status, response.headers.get('content-range') ?? '-', await response.text()].join(' ').trim())
  }
}
server.stop(true)
console.log(`Bun ${Bun.version}`)
console.log(JSON.stringify(seen, null, 2))
const changed = '206 bytes 3-9/* 3456789'
const all = '0123456789'
const expected = {
  part: [changed, changed, '200 -', changed],
  'part, 404': [changed, changed, '404 -', changed],
  'part, 201': [changed, changed, '201 -', changed],
  'part, 404 with a type': ['404 - 3456789', '404 - 3456789', '404 -', '404 - 3456789'],
  'part, 206 with a range': ['206 bytes 3-9/10 3456789', '206 bytes 3-9/10 3456789', '206 bytes 3-9/10', '206 bytes 3-9/10 3456789'],
  'whole, Accept-Ranges: none': [`200 - ${all}`, '206 bytes 2-4/10 234', '200 -', `200 - ${all}`],
  'whole, 404': [`404 - ${all}`, `404 - ${all}`, '404 -', `404 - ${all}`],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
node_modules/.bin/bun probe.mjs
