import type { Fault } from '../fault.ts'
import type { RequestContext, RequestPlace } from '../http/request-context.ts'
import type { SecurityEvent, SecurityEventFields } from '../http/security-events.ts'
import { addressForLimits } from '../kit/client-address.ts'
import type { Outcome, PrincipalKind } from './delta.ts'
import { hashBetween, hashOf } from './hash.ts'
import { createRing, createRingWriter, noPlace, ringRecords, toNumber } from './ring.ts'

/** Seeds of hashes, the same for all instances of a deployment. */
export type Seeds = { readonly high: number; readonly low: number; readonly subject: number }

/** `/api/v1/`, after which the path names a kind of resource and its id. */
const prefixLength = 8
const idLength = 36
/** Ids differ in their last characters. */
const idTail = 24
/** Of a path that names no resource, and was not found. */
const hashedOfPath = 40

type Answered = { readonly allowed?: unknown; readonly reason?: unknown }
const hyphen = 45
/** A power of two. */
const ownPairs = 4_096
type Hashes = { readonly high: number; readonly low: number }
/** About 3 MB. */
const maxHashed = 20_000

type Client = {
  readonly country: string | null
  readonly network: string | null
  readonly browser: string | null
  readonly platform: string | null
}
/** Of a code of two letters (ISO 3166-1); never 0. */
export const countryCode = (country: string): number => (country.charCodeAt(0) << 8) | country.charCodeAt(1)

type Owner = { readonly ownerId: string } | undefined
/** Of the facts of a decision, what says whose the resource is. */
type Owned = { readonly generation?: Owner; readonly media?: Owner; readonly project?: Owner }
type Asked = { readonly resource: { readonly id: string } }

const outcomeOfStatus = (status: number): Outcome => {
  if (status === 404) return 'not_found'
  if (status === 403) return 'denied'
  return status === 401 ? 'unauthorized' : 'ok'
}

/** A decision as a person sees it: one about a hidden resource equals one about a resource that does not exist. */
const outcomeOfDecision = ({ allowed, reason }: Answered): Outcome => {
  if (allowed !== false) return 'ok'
  return reason === 'resource.not_visible' ? 'not_found' : 'denied'
}

const failures: ReadonlySet<SecurityEvent> = new Set<SecurityEvent>([
  'sign_in.failed',
  'sign_in.second_factor_failed',
  'sign_in.passkey_refused',
])
const knownSources: readonly unknown[] = ['device', 'network', 'session']

/**
 * What requests show of their principals, for the thread that detects anomalies.
 *
 * Cost: hashes of an id and of a path, and one write to the ring for each request; no promise and no allocation. A request
 * without a credential is written only where it names a resource or was refused.
 */
export const createSignals = (seeds: Seeds) => {
  const ring = createRing()
  const write = createRingWriter(ring)
  /** Whose record it is, beside the ring: the thread knows hashes alone. */
  const names: (string | undefined)[] = Array.from({ length: ringRecords }, () => undefined)
  let onWritten: ((kind: PrincipalKind, principal: number, id: string) => void) | undefined

  /** Of ids in use, so that each is hashed once. */
  let hashed = new Map<string, Hashes>()
  const hashesOf = (id: string): Hashes => {
    const known = hashed.get(id)
    if (known !== undefined) return known
    const made = { high: hashOf(id, seeds.high), low: hashOf(id, seeds.low) }
    if (hashed.size >= maxHashed) hashed = new Map()
    hashed.set(id, made)
    return made
  }

  const principalOf = (id: string): number => toNumber(hashOf(id, seeds.high), hashOf(id, seeds.low))

  const put = (
    kind: PrincipalKind,
    id: string,
    outcome: Outcome,
    subject: number,
    sessionId: string | undefined,
    place = noPlace,
    accountExists = false,
    isKnown = false,
  ): void => {
    const { high, low } = hashesOf(id)
    // What people own is nothing to harvest.
    const about = kind === 'user' && outcome === 'ok' && isOwn(subject, low) ? 0 : subject
    const session = sessionId === undefined ? 0 : hashesOf(sessionId).low
    const number = write(kind, outcome, high, low, about, session, place, accountExists, isKnown)
    names[number % ringRecords] = id
    if (onWritten !== undefined) onWritten(kind, toNumber(high, low), id)
  }

  const subjectOf = (text: string): number => hashOf(text, seeds.subject)

  /** The first id of the path; 0 where the path has no id. */
  const subjectOfPath = (url: string, isMissing: boolean): number => {
    const pathAt = url.indexOf('/', prefixLength)
    const queryAt = url.indexOf('?', pathAt)
    const end = queryAt === -1 ? url.length : queryAt
    const idAt = url.indexOf('/', pathAt + prefixLength + 1) + 1
    if (idAt > 0 && idAt + idLength <= end && url.charCodeAt(idAt + prefixLength) === hyphen)
      return hashBetween(url, idAt + idLength - idTail, idAt + idLength, seeds.subject)
    return isMissing ? hashBetween(url, Math.max(pathAt, end - hashedOfPath), end, seeds.subject) : 0
  }

  /** By hash: pairs of an owner and its resource, from the latest decisions. */
  const own = new Uint32Array(ownPairs)
  const isOwn = (subject: number, low: number): boolean => {
    const pair = (subject ^ low) >>> 0
    return own[pair % ownPairs] === pair
  }

  const putDecisions = (context: RequestContext, userId: string, sessionId: string, response: unknown): void => {
    const { asked, place } = context
    const putOne = ({ resource }: Asked, answer: Answered) =>
      put('user', userId, outcomeOfDecision(answer), subjectOf(resource.id), sessionId, place)
    if (Array.isArray(asked)) {
      const { results } = response as { results: readonly Answered[] }
      for (let at = 0; at < asked.length; at += 1) putOne(asked[at], results[at] ?? {})
    } else putOne(asked as Asked, response as Answered)
  }

  const request = (given: Request, context: RequestContext, status: number, response: unknown): void => {
    const { principal, asked, place } = context
    const outcome = outcomeOfStatus(status)
    const isMissing = outcome === 'not_found'
    const isDecision = asked !== undefined && status < 300
    const subject = !isDecision && (status < 300 || isMissing) ? subjectOfPath(given.url, isMissing) : 0
    if (principal === undefined) {
      const address = subject === 0 ? undefined : context.addressForLimits?.(given)
      if (address !== undefined) put('address', address, outcome, subject, undefined)
    } else if ('keyId' in principal) {
      const first = Array.isArray(asked) ? asked[0] : asked
      put('key', principal.keyId, outcome, isDecision ? subjectOf(first.resource.id) : subject, undefined)
    } else if (isDecision) putDecisions(context, principal.userId, principal.sessionId, response)
    else put('user', principal.userId, outcome, subject, principal.sessionId, place)
  }

  return {
    ring,

    /** Codes of a client. */
    placeOf: ({ country, network, browser, platform }: Client): RequestPlace => ({
      country: country === null ? 0 : countryCode(country),
      network: subjectOf(network ?? ''),
      device: subjectOf(`${browser}/${platform}`),
    }),

    principalOf,
    put,

    /** A request was answered. */
    answered: request,

    /** A request was refused. */
    refused: (given: Request, context: RequestContext, { status, code }: Fault): void => {
      // What limits refuse shows nothing about the resource; the attempt that a pause refuses is one that fails.
      if (code === 'identity.sign_in_paused') {
        const address = context.addressForLimits?.(given)
        if (address !== undefined) put('address', address, 'failed', 0, undefined)
      } else request(given, context, status, undefined)
    },

    /** A decision was made on these facts, by which the resource belongs to the user or not. */
    decided: (userId: string, { id }: { readonly id: string }, { generation, media, project }: Owned): void => {
      const owner = (generation ?? media ?? project)?.ownerId
      if (owner !== userId) return
      const pair = (subjectOf(id) ^ hashOf(userId, seeds.low)) >>> 0
      own[pair % ownPairs] = pair
    },

    /** A security event is about an attempt to authenticate, or not. */
    securityEvent: (event: SecurityEvent, fields: SecurityEventFields): void => {
      const isFailure = failures.has(event)
      if (!isFailure && event !== 'sign_in.succeeded') return
      const { address, user_id, account, source } = fields
      const name = typeof account === 'string' ? account : (user_id ?? '')
      const isKnown = knownSources.includes(source)
      const outcome = isFailure ? 'failed' : 'signed_in'
      const exists = user_id !== null && user_id !== undefined
      put('address', addressForLimits(address), outcome, subjectOf(name), undefined, noPlace, exists, isKnown)
    },

    /** The id of the principal of a record; undefined where it was overwritten. */
    nameOf: (number: number, principal: number): string | undefined => {
      const id = names[number % ringRecords]
      return id !== undefined && principalOf(id) === principal ? id : undefined
    },

    /** Calls it for every record, or no more. For verdicts on principals of which only another instance knows the id. */
    watch: (each: typeof onWritten): void => {
      onWritten = each
    },
  }
}

export type Signals = ReturnType<typeof createSignals>
