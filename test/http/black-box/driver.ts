import { frontDoorRoutes } from '../../../src/app.ts'
import { plans } from '../../../src/limits/plans.ts'
import { maxBudget, openBudgetNames, planBudgetNames, quotaNames, variableOf } from '../../../src/limits/policy.ts'
import { until } from '../../faults/support.ts'
import type { TestIdentityProvider } from '../../harness/identity-provider.ts'
import {
  type Api,
  type Person,
  type Answer as PlainAnswer,
  type Runtime,
  register,
  type Sending,
} from '../../harness.ts'
import { createRouteFinder, type Document, misfits, nameOf } from './document.ts'
import { sendRaw, type WireAnswer } from './wire.ts'

/** Of receivers of webhooks on the machine of the server; a run takes the first that is free. */
export const receiverPorts = [43_101, 43_102, 43_103, 43_104, 43_105, 43_106, 43_107, 43_108]

export const sharedOrigin = 'https://app.example.com'
/** Of passkeys; pages of the shared origin may use them. */
export const passkeyDomain = 'example.com'

/** Limits are on. The figures of the plans are in no test's way; operators lower those of single accounts. */
const highFigures = Object.fromEntries([
  ...openBudgetNames.map((name) => [variableOf('LIMIT', name), maxBudget]),
  ...plans.flatMap((plan, index) => [
    ...planBudgetNames.map((name) => [variableOf('LIMIT', name, plan), maxBudget]),
    ...quotaNames.map((name) => [variableOf('QUOTA', name, plan), 1_000_000_000_000 * (1 + index)]),
  ]),
])

/** What the black box asks of the configuration of its server. */
export const blackBoxEnvironment: Readonly<Record<string, string>> = {
  LIMITS: 'on',
  ...Object.fromEntries(Object.entries(highFigures).map(([name, figure]) => [name, String(figure)])),
  SMTP_URL: 'log:',
  WEBHOOK_INTERNAL_HOSTS: receiverPorts.map((port) => `127.0.0.1:${port}`).join(','),
  PASSKEY_DOMAIN: passkeyDomain,
  PASSKEY_ORIGINS: sharedOrigin,
  CORS_ORIGINS: [sharedOrigin, 'https://*.example.app', 'capacitor://localhost'].join(','),
}

/** Where browsers return to from the identity provider. */
export const returnTo = `${sharedOrigin}/signed-in`

/** The server under test. */
export type Subject = {
  baseUrl: string
  /** The proxy in front of the server: it answers some malformed requests itself. */
  proxy?: 'nginx' | 'HAProxy' | undefined
  /** The server's runtime, if known. */
  runtime?: Runtime
  /** An origin in the server's CORS configuration, if known. */
  sharedOrigin?: string
  /** The output of the server's process so far, if known. */
  output?: () => string
  /** The rows of each table, if the database is reachable. */
  countRows?: () => Promise<Record<string, number>>
  /** A provider to sign in with as `acme`, from which browsers return to `returnTo`, if the server has one. */
  identityProvider?: TestIdentityProvider
  /** The actions in the audit log by the id of their request, if the database is reachable. */
  auditedActions?: () => Promise<ReadonlyMap<string, readonly string[]>>
  /** Makes a user an operator of the platform, if the database is reachable. The server learns of it a moment later. */
  makeAdmin?: (userId: string) => Promise<void>
}

export type Answer = PlainAnswer & { text: string }
type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'OPTIONS'

/** Every answer has these, byte for byte. The pages at /docs have a policy of their own and may be cached. */
export const securityHeaders: Readonly<Record<string, RegExp>> = {
  'cache-control': /^(no-store|private, no-cache|public, max-age=\d+)$/,
  'content-security-policy': /^default-src 'none';.* frame-ancestors 'none'/,
  'cross-origin-embedder-policy': /^require-corp$/,
  'cross-origin-opener-policy': /^same-origin$/,
  'cross-origin-resource-policy': /^same-origin$/,
  'permissions-policy': /^camera=\(\), geolocation=\(\), microphone=\(\)/,
  'referrer-policy': /^no-referrer$/,
  'strict-transport-security': /^max-age=\d{8,}/,
  'x-content-type-options': /^nosniff$/,
  'x-dns-prefetch-control': /^off$/,
  'x-frame-options': /^DENY$/,
  'x-permitted-cross-domain-policies': /^none$/,
}

/** Media opened by a link may be embedded by any origin. */
const embeddable = { ...securityHeaders, 'cross-origin-resource-policy': /^(same|cross)-origin$/ }
const isLink = (target: string) => {
  const { searchParams } = new URL(target, 'http://localhost')
  return searchParams.has('signature') || searchParams.has('share')
}

/** The missing or wrong headers of an answer of any status. */
export const missingHeaders = (headers: Headers, expectedHeaders = securityHeaders): string[] => [
  ...Object.entries(expectedHeaders).flatMap(([name, expected]) =>
    expected.test(headers.get(name) ?? '') ? [] : [`${name}: ${headers.get(name)}`],
  ),
  ...(/^[0-9a-f]{32}$/.test(headers.get('x-request-id') ?? '') ? [] : [`x-request-id: ${headers.get('x-request-id')}`]),
]

/** Faults of requests that match no documented route. */
const outside: Readonly<Record<number, string>> = { 404: 'route.not_found', 405: 'route.method_not_allowed' }

type Seen = { statuses: Set<number>; codes: Set<string> }

/** A request by the name of its route, with the id that its answer has. */
export type Sent = {
  readonly name: string
  readonly status: number
  readonly requestId: string
  readonly replayed: boolean
}

/** All answers of the suite, each compared with the document on arrival. */
export type Ledger = {
  /** By the name of the route. */
  readonly seen: ReadonlyMap<string, Seen>
  readonly codes: ReadonlySet<string>
  /** Answers that are not as documented. */
  readonly breaches: string[]
  /** Answers that lack headers. */
  readonly bare: string[]
  /** Answers 201 without a `Location` that the document has. */
  readonly unlocated: string[]
  /** Answers of the front door that differ from those of the general way. */
  readonly differing: string[]
  /** Requests of routes that may change something. */
  readonly changes: Sent[]
  note(method: string, target: string, answer: PlainAnswer): void
}

export const createLedger = (document: Document): Ledger => {
  const findRoute = createRouteFinder(document)
  const seen = new Map<string, Seen>()
  const codes = new Set<string>()
  const breaches: string[] = []
  const bare: string[] = []
  const differing: string[] = []
  const unlocated: string[] = []
  const changes: Sent[] = []

  /** Whether a document has the path for any method. */
  const hasPath = (path: string) =>
    ['GET', 'PATCH', 'DELETE'].some((method) => findRoute(method, path) !== undefined) && path.startsWith('/api/v1/')

  const breachesOf = (method: string, path: string, { status, headers, body }: PlainAnswer): string[] => {
    if (method === 'OPTIONS') return status === 204 || status >= 400 ? [] : ['an answer to OPTIONS is 204 or a refusal']
    const route = findRoute(method === 'HEAD' ? 'GET' : method, path)
    if (route === undefined) {
      if (/^[/](?:docs|dashboard)(?:[/]|$)/.test(path)) return []
      const expected = outside[status]
      return expected !== undefined && (method === 'HEAD' || body?.code === expected) ? [] : ['is in no document']
    }
    const sight = seen.get(nameOf(route)) ?? { statuses: new Set(), codes: new Set() }
    seen.set(nameOf(route), sight)
    sight.statuses.add(status)
    if (typeof body?.code === 'string') sight.codes.add(body.code)
    const documented = route.operation.responses[status]
    if (documented === undefined) return ['has an undocumented status']
    if (method === 'HEAD') return []
    if (documented.content === undefined) return body === undefined ? [] : ['has a body where none is documented']
    const type = headers.get('content-type') ?? ''
    const content = documented.content[type]
    return content === undefined ? [`has the undocumented type "${type}"`] : misfits(document, content.schema, body)
  }

  return {
    seen,
    codes,
    breaches,
    bare,
    differing,
    unlocated,
    changes,
    note: (method, target, answer) => {
      const changed = ['GET', 'HEAD', 'OPTIONS'].includes(method)
        ? undefined
        : findRoute(method, target.split('?')[0] ?? '')
      if (changed !== undefined)
        changes.push({
          name: nameOf(changed),
          status: answer.status,
          requestId: answer.headers.get('x-request-id') ?? '',
          replayed: answer.headers.get('idempotent-replayed') === 'true',
        })
      const location = answer.headers.get('location')
      const isLocated = location !== null && hasPath(location.split('?', 1)[0] ?? '')
      // A grant of credits is an entry of the ledger of another person, and a block is only listed.
      const isUnlocated = /[/](credits[/]grants|security[/]blocks)$/.test(target)
      if (answer.status === 201 && !isLocated && !isUnlocated) unlocated.push(`${method} ${target}: ${location}`)
      const path = target.split('?')[0] as string
      if (typeof answer.body?.code === 'string') codes.add(answer.body.code)
      const where = `${method} ${path} ${answer.status}`
      for (const breach of breachesOf(method, path, answer)) breaches.push(`${where}: ${breach}`)
      const expected = isLink(target) ? embeddable : securityHeaders
      for (const header of missingHeaders(answer.headers, expected)) bare.push(`${where}: ${header}`)
    },
  }
}

/** The pages with which a proxy answers by itself. */
const proxyPages = {
  nginx: /^<html>\r\n<head><title>(\d{3}) [\s\S]*<center>nginx/,
  HAProxy: /^<html><body><h1>(\d{3}) /,
} as const

const parse = (text: string, type: string | null) => {
  if (text === '') return undefined
  return /^application\/(\w+\+)?json/.test(type ?? '') ? JSON.parse(text) : text
}

/** What does not differ between two answers to one request: all but ids, times, ages, and which allowed decisions are sampled. */
const comparable = ({ status, headers, text }: Answer): string => {
  const names = [...headers.keys()].filter((name) => name !== 'date').sort()
  const steady = text.replace(
    /"(?:age_ms|microseconds)":[\d.]+|"audit\.allow_(?:recorded|not_sampled)"|"request_id":"[0-9a-f]{32}"/g,
    '',
  )
  return [status, ...names, headers.get('www-authenticate'), steady].join(' ')
}

type Client = { [M in keyof Api]: (...given: Parameters<Api[M]>) => Promise<Answer> }

/** The world of one run: the server under test, its document and every answer. */
export type World = Client & {
  readonly subject: Subject
  /** Every password sent and every token received. */
  readonly secrets: ReadonlySet<string>
  readonly document: Document
  readonly ledger: Ledger
  send(method: Method, target: string, init?: Sending & { body?: BodyInit }): Promise<Answer>
  /** Bytes as they are; see `sendRaw`. */
  raw(method: string, target: string, parts: readonly (string | Uint8Array)[]): Promise<WireAnswer | undefined>
  register(overrides?: Parameters<typeof register>[1]): Promise<Person>
  /** Whether this is a page by which the proxy itself refused a malformed or too large request. */
  isRefusedByProxy(answer: { readonly status: number; readonly text: string }): boolean
  /** Another session of the same person. */
  login(person: Person): Promise<Person>
  /** A new operator of the platform; undefined if the run cannot create one. */
  operator(): Promise<Person | undefined>
}

export const createWorld = async (subject: Subject): Promise<World> => {
  const { baseUrl } = subject
  const document = (await (await fetch(`${baseUrl}/docs/json`)).json()) as Document
  const ledger = createLedger(document)
  const secrets = new Set<string>()

  const isRefusedByProxy: World['isRefusedByProxy'] = ({ status, text }) => {
    const { proxy } = subject
    if (proxy === undefined || ![400, 413, 501, 505].includes(status)) return false
    return proxyPages[proxy].exec(text)?.[1] === String(status)
  }

  const sendOnce: World['send'] = async (method, target, { token, headers, body } = {}) => {
    const response = await fetch(baseUrl + target, {
      method,
      redirect: 'manual',
      headers: { ...(token !== undefined && { authorization: `Bearer ${token}` }), ...headers },
      ...(body !== undefined && { body }),
    })
    const text = await response.text()
    const answer = {
      status: response.status,
      headers: response.headers,
      text,
      body: parse(text, response.headers.get('content-type')),
    }
    if (!isRefusedByProxy(answer)) ledger.note(method, target, answer)
    for (const name of ['access_token', 'refresh_token', 'secret', 'key'])
      if (answer.body?.[name]) secrets.add(answer.body[name])
    for (const cookie of answer.headers.getSetCookie()) {
      const value = cookie.slice(cookie.indexOf('=') + 1, cookie.indexOf(';'))
      if (value !== '') secrets.add(value)
    }
    for (const [, secret = ''] of `${answer.body?.url ?? ''}`.matchAll(/[?&](?:signature|share)=(.+)/g))
      secrets.add(secret)
    return answer
  }
  /**
   * A request that the front door answers is sent a second time, with an empty query: so it takes the general way. Where caches
   * or permissions change in between, it has the answer of a third one.
   */
  const send: World['send'] = async (method, target, init) => {
    const answer = await sendOnce(method, target, init)
    if (!frontDoorRoutes.includes(`${method} ${target}`)) return answer
    const general = await sendOnce(method, `${target}?`, init)
    if (comparable(answer) === comparable(general)) return answer
    const later = comparable(await sendOnce(method, target, init))
    if (later !== comparable(general))
      ledger.differing.push(`${method} ${target}: ${later}, not ${comparable(general)}`)
    return answer
  }
  const sendJson = (method: Method, target: string, body: unknown, sending: Sending = {}) => {
    if (body === undefined) return send(method, target, sending)
    const { password, current_password, new_password } = body as Record<string, unknown>
    for (const secret of [password, current_password, new_password]) {
      if (typeof secret === 'string' && secret.length > 8) secrets.add(secret)
    }
    return send(method, target, {
      ...sending,
      headers: { 'content-type': 'application/json', ...sending.headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
  }

  const client = {
    get: (path: string, sending?: Sending) => send('GET', path, sending),
    post: (path: string, body?: unknown, sending?: Sending) => sendJson('POST', path, body, sending),
    put: (path: string, body?: unknown, sending?: Sending) => sendJson('PUT', path, body, sending),
    patch: (path: string, body?: unknown, sending?: Sending) => sendJson('PATCH', path, body, sending),
    delete: (path: string, sending?: Sending) => send('DELETE', path, sending),
  }
  return {
    ...client,
    subject,
    secrets,
    document,
    ledger,
    send,
    isRefusedByProxy,
    raw: async (method, target, parts) => {
      const answer = await sendRaw(baseUrl, parts)
      if (answer !== undefined) {
        const headers = new Headers(answer.headers)
        const text = Buffer.from(answer.body, 'latin1').toString()
        if (isRefusedByProxy({ status: answer.status, text })) return answer
        ledger.note(method, target, {
          status: answer.status,
          headers,
          body: parse(text, headers.get('content-type')),
        })
      }
      return answer
    },
    register: (overrides) => register(client, overrides),
    operator: async () => {
      const { makeAdmin } = subject
      if (makeAdmin === undefined) return undefined
      const person = await register(client)
      await makeAdmin(person.id)
      // The database announces the change to the server.
      const isOperator = async () => (await client.get('/api/v1/users?limit=1', { token: person.token })).status === 200
      await until(isOperator, 'the server knows the new role')
      return person
    },
    login: async (person) => {
      const { status, body } = await client.post('/api/v1/auth/login', {
        email: person.email,
        password: person.password,
      })
      if (status !== 200) throw new Error(`Signing in answered ${status}: ${JSON.stringify(body)}`)
      return { ...person, token: body.access_token, refreshToken: body.refresh_token, user: body.user }
    },
  }
}

export type Group = (world: () => World) => void

/** A refusal in one line, for comparison. */
export const refusal = ({ status, headers, body }: PlainAnswer) =>
  `${status} ${headers.get('content-type') === 'application/problem+json' ? body.code : JSON.stringify(body)}`
