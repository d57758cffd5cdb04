#!/usr/bin/env bash
# HAProxy 2.6.12 with `option httpchk GET /service/one/health` reports a healthy service on Bun 1.4.5 as down. The same
# service on Deno 2.9.6 is up, and requests of browsers succeed on both.
# Expected: `request.url` is an absolute URL for each legal request, as the Fetch standard requires. The check is HTTP/1.0
# without a Host field, which is legal.
# Seen: Deno uses its own address. Bun gives the bare path, and `new URL(request.url)` in a handler throws: 500. Elysia 1.4.30
# looks for the start of the path after the eleventh character of the URL and finds no route: 404, unless the path has no
# slash that far behind. With `http-check send ver HTTP/1.1 hdr Host ...` the service is up.
# Consequence: a service that moves from Deno to Bun is removed by its load balancer although its tests pass. The tests cannot
# show it, because fetch cannot send such a request.
# Upstream: pull request 33721 of Bun (open) describes the bare path and this check, not Elysia.
# Exits with 1 when this changes. Needs npm, Node and Debian 12 on x64 with current lists of apt.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bun@1.4.5 deno@2.9.6 elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
apt-get -qq -o APT::Sandbox::User=root download haproxy=2.6.12-1+deb12u4 liblua5.3-0 libpcre2-8-0 \
  libopentracing-c-wrapper0 libopentracing1 >/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" debian; done
cat >service.mjs <<'JS'
import { Elysia } from 'elysia'

const plain = (request) => {
  try {
    const { pathname } = new URL(request.url)
    return new Response(pathname, { status: pathname === '/service/one/health' ? 200 : 404 })
  } catch {
    return new Response('', { status: 500 })
  }
}
const elysia = new Elysia().get('/service/one/health', () => 'fine')
const options = { port: 0, hostname: '127.0.0.1' }
for (const handler of [plain, elysia.fetch]) {
  if (globalThis.Deno) Deno.serve({ ...options, onListen: ({ port }) => console.log(port) }, handler)
  else console.log(Bun.serve({ ...options, fetch: handler }).port)
}
JS
touch bun.ports deno.ports
node_modules/.bin/bun service.mjs >bun.ports &
node_modules/.bin/deno run --allow-all --quiet service.mjs >deno.ports &
until [ "$(cat bun.ports deno.ports | wc -l)" = 4 ]; do sleep 0.1; done
mapfile -t ports < <(cat bun.ports deno.ports)
{
  cat <<CONF
global
  stats socket $folder/haproxy.sock
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
CONF
  names=('Bun' 'Elysia-on-Bun' 'Deno' 'Elysia-on-Deno')
  for version in 1.0 1.1; do
    printf 'backend HTTP-%s\n  option httpchk GET /service/one/health\n' "$version"
    [ "$version" = 1.0 ] || printf '  http-check send meth GET uri /service/one/health ver HTTP/1.1 hdr Host service.example\n'
    for i in 0 1 2 3; do printf '  server %s 127.0.0.1:%s check inter 200ms fall 2 rise 2\n' "${names[i]}" "${ports[i]}"; done
  done
} >haproxy.cfg
cat >probe.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'

const ask = (text) =>
  new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect('haproxy.sock', () => socket.write(text))
    socket.on('data', (bytes) => (answer += bytes)).on('end', () => resolve(answer)).on('error', reject)
  })
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const checks = async () => {
  const [head, ...lines] = (await ask('show stat\n').catch(() => '')).trim().split('\n')
  const columns = head.replace('# ', '').split(',')
  const rows = lines.map((line) => Object.fromEntries(line.split(',').map((value, i) => [columns[i], value])))
  return rows.filter(({ svname }) => svname !== 'BACKEND' && svname !== 'FRONTEND')
}
// A server that is about to change shows "UP 1/2" or "DOWN 1/2".
let rows = []
const settled = () => rows.length === 8 && rows.every((row) => /^(UP|DOWN)$/.test(row.status) && /^L7/.test(row.check_status))
do {
  await sleep(1000)
  rows = await checks()
} while (!settled())
const seen = Object.fromEntries(rows.map((row) => [`check by ${row.pxname}, ${row.svname}`, `${row.status} ${row.check_code}`]))
for (const name of ['bun', 'deno']) {
  for (const port of readFileSync(`${name}.ports`, 'utf8').trim().split('\n')) {
    const { status } = await fetch(`http://127.0.0.1:${port}/service/one/health`)
    seen[`request of a client, ${name}`] = [...(seen[`request of a client, ${name}`] ?? []), status]
  }
}
console.log(JSON.stringify(seen, null, 2))
const expected = {
  'check by HTTP-1.0, Bun': 'DOWN 500',
  'check by HTTP-1.0, Elysia-on-Bun': 'DOWN 404',
  'check by HTTP-1.0, Deno': 'UP 200',
  'check by HTTP-1.0, Elysia-on-Deno': 'UP 200',
  'check by HTTP-1.1, Bun': 'UP 200',
  'check by HTTP-1.1, Elysia-on-Bun': 'UP 200',
  'check by HTTP-1.1, Deno': 'UP 200',
  'check by HTTP-1.1, Elysia-on-Deno': 'UP 200',
  'request of a client, bun': [200, 200],
  'request of a client, deno': [200, 200],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
LD_LIBRARY_PATH=$(dirname "$(find "$folder/debian" -name 'liblua5.3.so.0')")
export LD_LIBRARY_PATH
debian/usr/sbin/haproxy -v | sed -n 1p
debian/usr/sbin/haproxy -db -f haproxy.cfg >haproxy.log 2>&1 &
env -u LD_LIBRARY_PATH timeout 30 node probe.mjs
