import type { CircumstanceFinding } from '../access/policy/findings.ts'
import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'

/** The values of the RateLimit fields of a response. */
export type RateLimitFields = {
  readonly policy: string
  /** Undefined while half of the budget or more is left. */
  readonly state: string | undefined
}

/** Codes of where a request comes from, for the detection of anomalies; 0: not known. */
export type RequestPlace = { readonly network: number; readonly country: number; readonly device: number }

/** The person or the service that a request is counted on. */
export type RequestPrincipal =
  | { readonly userId: string; readonly sessionId: string }
  | { readonly keyId: string; readonly limitPerSecond: number | null }

type Asked = { readonly resource: { readonly id: string } }

/** What the audit knows beyond a request: the same for all of one process. */
export type AuditSource = {
  /** The address of the client. */
  addressOf(request: Request): string | undefined
  /** Notes that an event was recorded, so that it is linked soon. */
  recorded(): void
  /** Authenticates the values of an event (HMAC-SHA-256, 32 bytes). */
  macOf(content: string): Uint8Array
}

/** The context of one request, which every layer may read and only the limits and the guard may change. */
export type RequestContext = {
  readonly requestId: string
  /** The Content-Length of the request, so that its headers are searched once. NaN where it is not a number. */
  readonly contentLength: number | undefined
  readonly deadline: Deadline
  /** When the request came, on the clock of its deadline. */
  readonly arrivedMs: number
  /** The path of its route, such as `/api/v1/teams/:team_id`; undefined until it is known, and where no route has the path. */
  route: string | undefined
  /** The `Authorization` of the request, read once. */
  readonly authorization: string | null
  /** What records the changes of the request. Without it a change is refused. */
  readonly audit?: AuditSource | undefined
  /** Set when the request was found to carry an access token in a cookie that counts. */
  byCookie?: boolean
  /** `Set-Cookie` fields of the answer, whether the request succeeds or not. */
  setCookies?: readonly string[] | undefined
  /** The request itself, for those who read more of it than others need. */
  readonly request: Request
  /** The address of the client of a request. */
  readonly addressOf: (request: Request) => string
  /** The address of the client and its `User-Agent` (at most 512 characters), once they were read: each costs about 1 µs. */
  address?: string | undefined
  userAgent?: string | undefined
  /** What the layer of the security context found, once the caller is known. */
  contextFinding?: CircumstanceFinding | undefined
  /** Set when the request was counted on a budget. */
  rateLimit?: RateLimitFields | undefined
  /** What limits count the client of a request as; undefined: it is not limited by address. */
  readonly addressForLimits?: ((request: Request) => string | undefined) | undefined
  /** That, of a request to a route that authenticates. */
  limitedAs?: string | undefined
  /** The service key of a service that acts for a user. */
  actingKeyId?: string | undefined
  /** Set once the caller is authenticated, and by its person or service. */
  principal?: RequestPrincipal | undefined
  place?: RequestPlace | undefined
  /** The question, or questions, of a request for decisions. */
  asked?: Asked | readonly Asked[] | undefined
  /** The mode of the service lets this request only take access away, not give any. */
  onlyNarrowing?: boolean
  /** Set once the request is refused: its response is finished. */
  isRefused?: boolean
  /** How long the request waited for the client to send its body, where that is noted. */
  bodyMs?: number
  /** Units of it that the request was counted with by its body. */
  paidUnits?: number | undefined
}

type PublicUrl = { readonly publicUrl: string | undefined }

/**
 * The start of URLs in a response: `publicUrl`, else the origin of the request. Empty, for relative URLs, where the request had
 * no Host.
 */
export const baseUrlOf = ({ publicUrl }: PublicUrl, request: Request): string => {
  if (publicUrl !== undefined) return publicUrl
  // The runtime makes up a host for HTTP/1.0 without one.
  return request.headers.get('host') === null ? '' : (URL.parse(request.url)?.origin ?? '')
}

/**
 * The origin at which clients reach this service. Throws `request.host_invalid` where neither `publicUrl` nor the request names
 * it.
 */
export const originOf = (config: PublicUrl, request: Request): string => {
  const origin = baseUrlOf(config, request)
  if (origin === '') throw new Fault('request.host_invalid')
  return origin
}

const visible = /^[\x21-\x7e]{1,128}$/

/**
 * The `X-Request-ID` of a request, where a response repeats it; undefined for one that is not 1 to 128 visible ASCII
 * characters.
 */
export const givenRequestId = ({ headers }: Request): string | undefined => {
  const given = headers.get('x-request-id')
  return given !== null && visible.test(given) ? given : undefined
}
