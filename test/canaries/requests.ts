import {
  type Document,
  isUpload,
  nameOf,
  neededQuery,
  pathOf,
  type Route,
  resolve,
  routesOf,
  type Schema,
  sampleOf,
} from '../http/black-box/document.ts'
import type { Canaries, Form } from './canaries.ts'

export type Request = {
  readonly what: string
  readonly method: string
  readonly target: string
  readonly isSignedIn: boolean
  readonly headers: Record<string, string>
  readonly body?: string | undefined
}

/** Properties whose values are secrets, wherever they are in a body or a query. */
const secretNames: Readonly<Record<string, Form>> = {
  password: 'password',
  current_password: 'password',
  new_password: 'password',
  token: 'token',
  refresh_token: 'token',
  access_token: 'accessToken',
  device_token: 'token',
  reset_token: 'token',
  secret: 'token',
  code: 'token',
  recovery_code: 'token',
  challenge: 'token',
  key: 'serviceKey',
  state: 'token',
  ticket: 'token',
  signature: 'token',
  share: 'token',
  code_verifier: 'token',
  client_secret: 'token',
  api_key: 'serviceKey',
  authorization: 'accessToken',
  private_key: 'token',
}
const names = Object.keys(secretNames)
/** Members called as a secret that name someone: the key of a limit is an account or an address. */
const identifiers = ['POST /api/v1/security/limits/lift key']

/** A body that the route takes, with canaries in place of every secret. */
const bodyWith = (document: Document, given: Schema, plant: (name: string) => string, name = ''): unknown => {
  const schema = resolve(document, given)
  if (name in secretNames && schema.const === undefined && schema.enum === undefined) return plant(name)
  const first = schema.anyOf?.[0]
  if (first !== undefined) return bodyWith(document, first, plant, name)
  if (schema.type === 'object')
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([each, member]) => [each, bodyWith(document, member, plant, each)]),
    )
  if (schema.type === 'array') return [bodyWith(document, schema.items ?? {}, plant, name)]
  return sampleOf(document, schema)
}

const credentials: Readonly<Record<string, (plant: (form: Form, how: string) => string) => Record<string, string>>> = {
  'access token': (plant) => ({ authorization: `Bearer ${plant('accessToken', 'Bearer')}` }),
  'service key': (plant) => ({ authorization: `Bearer ${plant('serviceKey', 'Bearer')}` }),
  'opaque token': (plant) => ({ authorization: `bearer  ${plant('token', 'Bearer')}` }),
  'Basic credentials': (plant) => ({ authorization: `Basic user:${plant('password', 'Basic')}` }),
  'unknown scheme': (plant) => ({ authorization: plant('token', 'no scheme') }),
  cookies: (plant) => ({
    cookie: ['access', 'refresh', 'device'].map((name) => `__Host-velro_${name}=${plant('token', name)}`).join('; '),
    origin: 'https://app.example.com',
  }),
  'other headers': (plant) => ({
    'x-api-key': plant('serviceKey', 'X-Api-Key'),
    'proxy-authorization': `Bearer ${plant('token', 'Proxy-Authorization')}`,
    'x-auth-token': plant('token', 'X-Auth-Token'),
    // Not X-Request-Id: it names the request, in the log too.
    'velro-user': plant('token', 'Velro-User'),
    traceparent: `00-${plant('token', 'traceparent')}-01`,
    referer: `https://app.example.com/?token=${plant('token', 'Referer')}`,
    'if-none-match': `"${plant('token', 'If-None-Match')}"`,
    range: `bytes=${plant('token', 'Range')}`,
    accept: plant('token', 'Accept'),
    'content-encoding': plant('token', 'Content-Encoding'),
    'x-forwarded-for': plant('token', 'X-Forwarded-For'),
  }),
}

type Options = {
  readonly canaries: Canaries
  /** Of someone who is signed in; the token of an operator for every second route. */
  readonly token: () => string
}

/** Requests to every route of the document, with canaries in body, query, headers and path, as anonymous and as signed in. */
export function* requestsTo(document: Document, { canaries, token }: Options): Generator<Request> {
  for (const route of routesOf(document)) yield* requestsToRoute(document, route, { canaries, token })
}

function* requestsToRoute(document: Document, route: Route, { canaries, token }: Options): Generator<Request> {
  const { method, operation, template } = route
  const name = nameOf(route)
  const plant = (form: Form, how: string) => canaries.plant(form, `${name}: ${how}`)
  const needed = neededQuery(document, route)
  const path = pathOf(route)
  const targetWith = (more: readonly string[] = [], at = path) => {
    const query = [...needed, ...more].join('&')
    return query === '' ? at : `${at}?${query}`
  }
  const target = targetWith()
  const signedIn = () => ({ authorization: `Bearer ${token()}` })
  const json = { 'content-type': 'application/json' }
  const schema = operation.requestBody?.content['application/json']?.schema
  const request = (what: string, given: Partial<Request>): Request => ({
    what: `${name}, ${what}`,
    method,
    target,
    headers: {},
    isSignedIn: what.endsWith('signed in'),
    ...given,
  })

  for (const [what, make] of Object.entries(credentials)) yield request(what, { headers: make(plant) })

  const all = names.map((each) => `${each}=${plant(secretNames[each] ?? 'token', `query ${each}`)}`)
  yield request('query of unknown parameters', { target: targetWith(all) })
  yield request('query of unknown parameters, signed in', { target: targetWith(all), headers: signedIn() })
  for (const parameter of operation.parameters ?? []) {
    if (parameter.in !== 'query') continue
    const form = secretNames[parameter.name] ?? 'token'
    yield request(`query ${parameter.name}, signed in`, {
      target: `${path}?${parameter.name}=${plant(form, `query ${parameter.name}`)}`,
      headers: signedIn(),
    })
  }
  if (template.includes('{')) {
    const inPath = template.replaceAll(/\{\w+\}/g, () => plant('token', 'path'))
    yield request('path', { target: targetWith([], inPath) })
    yield request('path, signed in', { target: targetWith([], inPath), headers: signedIn() })
  }
  yield request('a longer path', { target: `${path}/${plant('token', 'a longer path')}` })
  if (method === 'GET' || method === 'DELETE') return

  const sendsBytes = isUpload(route)
  const sampled =
    schema &&
    bodyWith(document, schema, (each) =>
      identifiers.includes(`${name} ${each}`) ? 'someone' : plant(secretNames[each] ?? 'token', `body ${each}`),
    )
  if (sampled !== undefined) {
    yield request('body', { headers: json, body: JSON.stringify(sampled) })
    yield request('body, signed in', { headers: { ...json, ...signedIn() }, body: JSON.stringify(sampled) })
  }
  const unknown = () =>
    Object.fromEntries(names.map((each) => [each, plant(secretNames[each] ?? 'token', `unknown ${each}`)]))
  const bodies: Readonly<Record<string, [string, string]>> = {
    'unknown members': ['application/json', JSON.stringify(unknown())],
    'secrets of other types': [
      'application/json',
      JSON.stringify({
        ...(sampled as object),
        password: [plant('password', 'in a list')],
        token: { is: plant('token', 'in an object') },
      }),
    ],
    'broken JSON': ['application/json', `{"password": "${plant('password', 'broken JSON')}`],
    'text that is no JSON': ['application/json', plant('password', 'no JSON')],
    'a form': ['application/x-www-form-urlencoded', `password=${plant('token', 'form')}`],
    'plain text': ['text/plain', plant('password', 'plain text')],
    'a type with a secret': [`application/${plant('token', 'Content-Type')}`, '{}'],
  }
  for (const [what, [type, body]] of Object.entries(bodies)) {
    if (sendsBytes && what !== 'unknown members') continue
    const isPrivileged = what === 'secrets of other types' || what === 'unknown members'
    const headers = { 'content-type': type, ...(isPrivileged && signedIn()) }
    yield request(isPrivileged ? `${what}, signed in` : what, { headers, body })
  }
}
