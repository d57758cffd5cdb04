#!/usr/bin/env bash
# Elysia 1.4.30 changes the options object that is passed to `get(path, handler, options)` or `guard(options)`: it deletes the
# key of a macro and adds the hooks of the macro.
# Expected: an options object that is only read, so that it can be used again.
# Seen: two applications in one process have a macro of the same name and share one options object, such as a constant of a
# module. The second application runs the hook of the first, with everything that the hook closes over, and never its own. A
# frozen object is a TypeError. `guard(options, callback)` and `group(path, options, callback)` copy the object, and each
# application runs its own hook.
# Consequence: in tests that build one application each, requests reach the services of an earlier test.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
cat >probe.mjs <<'JS'
import { Elysia } from 'elysia'

const ways = {
  'get(path, handler, options)': (app, options) => app.get('/a', () => 'no hook', options),
  'guard(options)': (app, options) => app.guard(options).get('/a', () => 'no hook'),
  'guard(options, callback)': (app, options) => app.guard(options, (inner) => inner.get('/a', () => 'no hook')),
  'group(path, options, callback)': (app, options) => app.group('', options, (inner) => inner.get('/a', () => 'no hook')),
}
const application = (name) => new Elysia().macro({ audited: (topic) => ({ afterHandle: () => `${name} about ${topic}` }) })
const answer = async (app) => (await app.handle(new Request('http://localhost/a'))).text()

const seen = {}
for (const [way, add] of Object.entries(ways)) {
  const options = { audited: 'orders' }
  const first = add(application('first'), options)
  const second = add(application('second'), options)
  seen[way] = { answers: [await answer(first), await answer(second)], keys: Object.keys(options) }
}
try {
  application('third').get('/a', () => 'no hook', Object.freeze({ audited: 'orders' }))
  seen.frozen = 'accepted'
} catch (error) {
  seen.frozen = error.constructor.name
}
console.log(JSON.stringify(seen, null, 2))
const shared = { answers: ['first about orders', 'first about orders'], keys: ['afterHandle'] }
const own = { answers: ['first about orders', 'second about orders'], keys: ['audited'] }
const expected = {
  'get(path, handler, options)': shared,
  'guard(options)': shared,
  'guard(options, callback)': own,
  'group(path, options, callback)': own,
  frozen: 'TypeError',
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
node probe.mjs
