import { catalogue, type Fault, toProblem } from '../fault.ts'
import { createOriginMatcher, namedOrigins } from '../kit/origin.ts'
import { jsonTextOf } from './json-text.ts'
import type { RateLimitFields } from './request-context.ts'

const jsonType = 'application/json'
const problemType = 'application/problem+json'

/**
 * The headers of the OWASP Secure Headers Project, on every response. An API has nothing to load, frame or embed. Each header
 * costs about 0.2 µs, so those for browsers out of use are left out.
 */
const securityHeaders = {
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
  'referrer-policy': 'no-referrer',
  'strict-transport-security': 'max-age=63072000; includeSubDomains',
  'x-content-type-options': 'nosniff',
  'x-dns-prefetch-control': 'off',
  'x-frame-options': 'DENY',
  'x-permitted-cross-domain-policies': 'none',
} as const

const exposed =
  'x-request-id, retry-after, location, ratelimit, ratelimit-policy, velro-degraded, idempotent-replayed, ' +
  'etag, content-range, accept-ranges, content-disposition, www-authenticate, accept-encoding'
/** For a preflight that names no headers. */
const usualHeaders =
  'authorization, content-type, idempotency-key, last-event-id, traceparent, if-match, if-none-match, if-range, range'

/** Names of header fields, separated by commas (RFC 9110 §5.1). */
const fieldNames = /^[\w!#$%&'*+.^`|~-]+(?:[ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*$/
const maxFieldNames = 2_048

/** The headers that a page of a configured origin may send: all that it asks for, within the bounds above. */
const allowedHeaders = (requested: string | null): string =>
  requested !== null && requested.length <= maxFieldNames && fieldNames.test(requested)
    ? requested
        .split(',')
        .map((name) => name.trim().toLowerCase())
        .join(', ')
    : usualHeaders

type Outgoing = {
  readonly status: number
  readonly requestId: string
  /** The `Origin` of the request. */
  readonly origin: string | null
  readonly headers?: Readonly<Record<string, string | number | string[] | undefined>> | undefined
  /** Undefined for a request that counted on no budget. */
  readonly rateLimit?: RateLimitFields | undefined
}

const policyField = 'ratelimit-policy'
const stateField = 'ratelimit'
/** Figures of single accounts have policies of their own. */
const maxLimitedBases = 1_000

/** Adds the RateLimit fields to a response that another part made. */
export const addRateLimit = (response: Response, fields: RateLimitFields | undefined): Response => {
  if (fields === undefined || response.headers.has(policyField)) return response
  response.headers.set(policyField, fields.policy)
  if (fields.state !== undefined) response.headers.set(stateField, fields.state)
  return response
}

/** Adds the cookies that the browser is to keep or to delete, once: a refusal passes here twice. */
export const addCookies = (response: Response, cookies: readonly string[] | undefined): Response => {
  if (cookies === undefined || response.headers.has('set-cookie')) return response
  for (const cookie of cookies) response.headers.append('set-cookie', cookie)
  return response
}

/** Creates every response, so that none lacks the headers above. */
export type Responder = {
  /** The `Origin` of a request, for `Outgoing`; null where none is configured, so that it is not looked for. */
  originOf(request: Request): string | null
  json(body: unknown, outgoing: Outgoing): Response
  /** A response that is not JSON; `headers` must have its `content-type`. */
  raw(body: BodyInit | null, outgoing: Outgoing): Response
  /** `challenge` is the `WWW-Authenticate` header, `fromRequest` the members that follow from the request. */
  problem(
    fault: Fault,
    instance: string,
    outgoing: Omit<Outgoing, 'status'> & {
      readonly challenge: string | undefined
      readonly fromRequest?: Readonly<Record<string, unknown>> | undefined
    },
  ): Response
  /** The answer to OPTIONS: `methods` are those of the path, `requested` is `Access-Control-Request-Headers`. */
  options(
    outgoing: Omit<Outgoing, 'status'> & { readonly methods: string; readonly requested: string | null },
  ): Response
}

const hasOwnKeys = (record: object): boolean => {
  for (const _ in record) return true
  return false
}

export const createResponder = (corsOrigins: readonly string[]): Responder => {
  const isConfigured = createOriginMatcher(corsOrigins)
  const named = namedOrigins(corsOrigins)
  const vary = corsOrigins.length > 0 ? { vary: 'Origin' } : {}
  const baseOf = (type: Record<string, string>) => new Headers({ ...securityHeaders, ...vary, ...type })
  const jsonBase = baseOf({ 'content-type': jsonType })
  const problemBase = baseOf({ 'content-type': problemType })
  const plainBase = baseOf({})
  /** With the policy of a budget, of which there are few. */
  const limitedBases = new Map<Headers, Map<string, Headers>>(
    [jsonBase, problemBase, plainBase].map((base) => [base, new Map()]),
  )
  const limitedBaseOf = (base: Headers, fields: RateLimitFields): Headers => {
    const known = limitedBases.get(base)
    let limited = known?.get(fields.policy)
    if (limited === undefined) {
      limited = new Headers(base)
      limited.set(policyField, fields.policy)
      if (known !== undefined && known.size < maxLimitedBases) known.set(fields.policy, limited)
    }
    if (fields.state === undefined) return limited
    const withState = new Headers(limited)
    withState.set(stateField, fields.state)
    return withState
  }

  const send = (usual: Headers, body: BodyInit | null, { status, requestId, origin, headers, rateLimit }: Outgoing) => {
    const base = rateLimit === undefined ? usual : limitedBaseOf(usual, rateLimit)
    // A Response copies its headers, so one object is built once and only its request id is changed.
    base.set('x-request-id', requestId)
    const cors = origin !== null && isConfigured(origin)
    if (!cors && (headers === undefined || !hasOwnKeys(headers))) return new Response(body, { status, headers: base })
    const own = new Headers(base)
    if (cors) {
      own.set('access-control-allow-origin', origin)
      own.set('access-control-expose-headers', exposed)
      // With cookies: only for an origin that is named, not for every host below a domain.
      if (named.has(origin)) own.set('access-control-allow-credentials', 'true')
    }
    for (const [name, value] of Object.entries(headers ?? {})) {
      if (value === undefined) continue
      // Each names what the response varies by, in addition to the others.
      if (name === 'vary') own.append(name, String(value))
      else own.set(name, String(value))
    }
    return new Response(body, { status, headers: own })
  }

  return {
    originOf: corsOrigins.length === 0 ? () => null : ({ headers }) => headers.get('origin'),
    json: (body, outgoing) =>
      body === undefined ? send(plainBase, null, outgoing) : send(jsonBase, jsonTextOf(body), outgoing),
    raw: (body, outgoing) => send(plainBase, body, outgoing),
    problem: (fault, instance, outgoing) => {
      const entry: { status: number; retryAfterS?: number } = catalogue[fault.code]
      const headers = {
        ...(entry.retryAfterS !== undefined && { 'retry-after': String(entry.retryAfterS) }),
        ...fault.headers,
        'www-authenticate': outgoing.challenge,
      }
      const text = JSON.stringify(toProblem(fault, instance, outgoing.requestId, outgoing.fromRequest))
      return send(problemBase, text, { ...outgoing, status: entry.status, headers })
    },
    options: ({ methods, requested, ...outgoing }) =>
      send(plainBase, null, {
        ...outgoing,
        status: 204,
        headers: {
          allow: methods,
          ...(outgoing.origin !== null &&
            isConfigured(outgoing.origin) && {
              'access-control-allow-methods': methods,
              'access-control-allow-headers': allowedHeaders(requested),
              'access-control-max-age': '600',
            }),
        },
      }),
  }
}
