import { randomUUID } from 'node:crypto'

/** `forged` has the header and claims of a valid token and another signature. */
export type World = { readonly token: string; readonly forged: () => string }

type Sent = { readonly path: string; readonly body?: string; readonly token?: string }
type Attack = (world: World) => Iterable<Sent>

const mebibyte = 1_048_576
const repeat = (text: string, count: number) => Array(count).fill(text).join(',')

/** Of 1 MiB each. */
const bodies = {
  nested: '['.repeat(mebibyte / 2) + ']'.repeat(mebibyte / 2),
  escapes: `[${repeat('"\\u0041"', 110_000)}]`,
  keys: `{${Array.from({ length: 90_000 }, (_, at) => `"${at}":1`).join(',')}}`,
  objects: `[${Array.from({ length: 70_000 }, (_, at) => `{"k${at}":1}`).join(',')}]`,
  digits: '1'.repeat(mebibyte - 1),
  newlines: `"${'\\n'.repeat(mebibyte / 2 - 1)}"`,
  /** Within every limit of a batch but its schema. */
  permitted: `{"checks":[${repeat(`{"extra":"${'x'.repeat(5_200)}"}`, 200)}]}`,
}

const batch = '/api/v1/authorization/check/batch'
const evaluations = '/access/v1/evaluations'
const check = '/api/v1/authorization/check'
const jsonPaths = ['/api/v1/auth/login', check, batch, evaluations, '/api/v1/projects']

function* cycle<T>(items: readonly T[]) {
  for (;;) yield* items
}

const eachTo =
  (paths: readonly string[], texts: readonly string[], isSignedIn: boolean): Attack =>
  ({ token }) =>
    cycle(texts.flatMap((body) => paths.map((path) => ({ path, body, ...(isSignedIn && { token }) }))))

const unknownChecks = () =>
  JSON.stringify({
    checks: Array.from({ length: 200 }, () => ({ action: 'read', resource: { type: 'generation', id: randomUUID() } })),
  })

const oneCheck = JSON.stringify({ action: 'read', resource: { type: 'project', id: randomUUID() } })

export const attacks: Record<string, Attack> = {
  'anonymous, nested arrays': eachTo(jsonPaths, [bodies.nested], false),
  'anonymous, escapes': eachTo(jsonPaths, [bodies.escapes], false),
  'anonymous, keys': eachTo(jsonPaths, [bodies.keys], false),
  'free account, 1 MiB on batch': eachTo([batch], Object.values(bodies), true),
  'free account, 1 MiB within the limits on batch': eachTo([batch], [bodies.permitted], true),
  'free account, 1 MiB on AuthZEN': eachTo([evaluations], Object.values(bodies), true),
  'free account, batches of 200 unknown ids': function* ({ token }) {
    for (;;) yield { path: batch, body: unknownChecks(), token }
  },
  'forged tokens': function* ({ forged }) {
    for (;;) yield { path: check, body: oneCheck, token: forged() }
  },
  'broken tokens': eachTo([check], [oneCheck], false),
  'the OpenAPI document': () => cycle([{ path: '/docs/json' }]),
}
