#!/usr/bin/env bash
# Elysia 1.4.30 reads the source text of hooks, so the name of a hook's parameter changes what every handler does.
# Seen: an onRequest hook that calls its parameter `route` makes each compiled handler assign `c.route`; the same hook with
# the parameter `request` or `c` does not. And `.decorate('name', undefined)` declares a decorator with an empty name,
# while `.decorate({ name: undefined })` declares `name`.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 @sinclair/typebox@0.34.52 >/dev/null
cat >probe.mjs <<'JS'
import { Elysia } from 'elysia'

const handlerWith = (hook) =>
  new Elysia().onRequest(hook).get('/a', () => 'a').compile().routes[0].compile().toString()

const facts = {
  'parameter named route': /c\.route\s*=/.test(handlerWith((route) => void route.set)),
  'parameter named other': /c\.route\s*=/.test(handlerWith((other) => void other.set)),
  "decorate('name', undefined)": Object.keys(new Elysia().decorate('name', undefined).decorator),
  'decorate({ name: undefined })': Object.keys(new Elysia().decorate({ name: undefined }).decorator),
}
console.log(JSON.stringify(facts, null, 2))
const seen = JSON.stringify([true, false, [''], ['name']])
process.exit(JSON.stringify(Object.values(facts)) === seen ? 0 : 1)
JS
node probe.mjs
