#!/usr/bin/env bash
# Elysia 1.4.30: if a property of type t.UnionEnum is missing in a request, Elysia adds it with the first word of the enum,
# also if the property is optional.
# Expected: 422 for a required property and no value for an optional one, as with t.Enum and with a union of literals.
# Seen: `{}` against { role: t.UnionEnum(['owner', 'viewer']) } is 200, and the handler receives the role "owner"; the same in
# a query. A wrong word is 422. Elysia adds no value in the items of an array, nor in a body with `aot: false`.
# Consequence: the order of the words decides what an incomplete request means, and a PATCH changes properties that it does
# not contain. `t.UnionEnum(words, { default: undefined })` avoids it. The type sets `default` to its first word; according to
# a comment in its source, for error messages.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
cat >probe.mjs <<'JS'
import { Elysia, t } from 'elysia'

const words = ['owner', 'viewer']
const role = t.UnionEnum(words)
const schemas = {
  required: t.Object({ role }),
  optional: t.Object({ role: t.Optional(role) }),
  'optional, beside others': t.Object({ name: t.String(), role: t.Optional(role) }),
  'in an array': t.Object({ members: t.Array(t.Object({ role })) }),
  'default: undefined': t.Object({ role: t.UnionEnum(words, { default: undefined }) }),
  't.Enum': t.Object({ role: t.Enum({ owner: 'owner', viewer: 'viewer' }) }),
  't.Union of literals': t.Object({ role: t.Union(words.map((word) => t.Literal(word))) }),
}
const bodies = { 'optional, beside others': { name: 'a' }, 'in an array': { members: [{}] } }
const answer = async (response) => (response.status === 200 ? JSON.stringify(await response.json()) : response.status)
const seen = {}
for (const aot of [true, false]) {
  for (const [name, schema] of Object.entries(schemas)) {
    const app = new Elysia({ aot })
      .post('/', ({ body }) => Response.json(body), { body: schema })
      .get('/', ({ query }) => Response.json(query), { query: schema })
    const post = (body) =>
      app.handle(new Request('http://localhost/', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }))
    seen[`aot ${aot}, ${name}`] = await answer(await post(bodies[name] ?? {}))
    if (name === 'required') {
      seen[`aot ${aot}, ${name}, in a query`] = await answer(await app.handle(new Request('http://localhost/')))
      seen[`aot ${aot}, ${name}, wrong word`] = await answer(await post({ role: 'guest' }))
    }
  }
}
console.log(JSON.stringify(seen, null, 2))
const owner = '{"role":"owner"}'
const expected = [
  ...[owner, owner, 422, owner, '{"name":"a","role":"owner"}', 422, 422, 422, 422],
  ...[422, owner, 422, '{}', '{"name":"a"}', 422, 422, 422, 422],
]
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
node probe.mjs
