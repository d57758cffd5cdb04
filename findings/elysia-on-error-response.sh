#!/usr/bin/env bash
# Elysia 1.4.30: whether mapResponse hooks see an error depends on where it arose, on what onError returns, and on `aot`.
# Seen: a compiled route (aot, the default) passes an error of its handler to mapResponse. An unknown path and an error in
# onRequest skip it if onError returns a Response, and do not skip it if onError returns text. With `aot: false` every error
# skips it. So a mapResponse hook that sets security headers misses just the errors that reached no route, and a change of
# `aot` makes it miss all of them.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
cat >probe.mjs <<'JS'
import { Elysia } from 'elysia'

const fail = () => {
  throw new Error('failed')
}
const errors = {
  'a handler throws': (app) => app.get('/a', fail),
  'no route has the path': (app) => app,
  'onRequest throws': (app) => app.onRequest(fail).get('/a', () => 'a'),
}
const seen = {}
for (const aot of [true, false]) {
  for (const [name, build] of Object.entries(errors)) {
    for (const [returned, answer] of [['a Response', () => new Response('failed')], ['text', () => 'failed']]) {
      let count = 0
      const app = build(new Elysia({ aot }).mapResponse(() => void (count += 1)).onError(answer))
      await (await app.handle(new Request('http://localhost/a'))).text()
      seen[`aot ${aot}, ${name}, onError returns ${returned}`] = count
    }
  }
}
console.log(JSON.stringify(seen, null, 2))
process.exit(Object.values(seen).join('') === '110101000000' ? 0 : 1)
JS
node probe.mjs
