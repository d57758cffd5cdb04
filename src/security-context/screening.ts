import type { SessionOrigin } from '../access/policy/facts/session.ts'
import type { CircumstanceFinding } from '../access/policy/findings.ts'
import type { SecurityContextMode } from '../config.ts'
import { Fault } from '../fault.ts'
import type { RequestContext, RequestPlace } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import { isInRollout } from '../kit/rollout.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Client, ClientContexts } from './client-contexts.ts'
import { type ClientContext, compare, requiredScore, type Signal, scoreOf, signals, signalWeights } from './signals.ts'

/** Who uses which session. */
export type SessionOf = {
  readonly userId: string
  readonly sessionId: string
  readonly origin?: SessionOrigin | undefined
}

export type Assessment = {
  /** What layer 4 finds. */
  readonly finding: CircumstanceFinding
  readonly signals: readonly Signal[]
  readonly score: number
  /** Whether the person has to authenticate again before anything is decided. */
  readonly isRefused: boolean
  /** The client, for the detection of anomalies. */
  readonly place?: RequestPlace | undefined
}

/** Codes of the place and the device of a client. */
export type PlaceOf = (client: ClientContext) => RequestPlace

/** An assessment, and the client that it is about. */
type Known = Client & { readonly assessment: Assessment; readonly older: Known | undefined }

type ScreenedRequest = Pick<RequestContext, 'requestId' | 'request' | 'addressOf' | 'place' | 'address' | 'userAgent'>

const maxUserAgentLength = 512

/** As a session records it. */
export const userAgentOf = ({ headers }: Request): string =>
  (headers.get('user-agent') ?? '').slice(0, maxUserAgentLength)

/** Clients of one session that are remembered at once: a phone between two networks, and two more. */
const maxKnown = 4
/** Less than a new country is nothing to report. */
const reportedScore = signalWeights.country_changed
const reportEveryMs = 3_600_000
const maxReported = 10_000

const abstain = (reason: string): CircumstanceFinding => Object.freeze({ verdict: 'abstain', reason })
const off: CircumstanceFinding = Object.freeze({ verdict: 'skipped', reason: 'context.off' })
const notCompared = abstain('context.not_known')
const unchanged = abstain('context.unchanged')
const changed = Object.fromEntries(signals.map((signal) => [signal, abstain(`context.${signal}`)])) as Readonly<
  Record<Signal, CircumstanceFinding>
>

/** Without a session of a person there is nothing to compare. */
const unassessed: Assessment = Object.freeze({ finding: notCompared, signals: [], score: 0, isRefused: false })
const switchedOff: Assessment = Object.freeze({ ...unassessed, finding: off })

/** The way out is POST /api/v1/auth/reauthenticate or a new sign-in; both make the place of the request that of the session. */
export const contextRefused = (): Fault =>
  new Fault('session.reauthentication_required', { extensions: { max_age_seconds: 0, reason: 'context' } })

const toAssessment = (found: readonly Signal[], enforced: boolean, place: RequestPlace | undefined): Assessment => {
  const score = scoreOf(found)
  const [strongest] = found
  return Object.freeze({
    finding: strongest === undefined ? unchanged : changed[strongest],
    signals: Object.freeze([...found]),
    score,
    isRefused: enforced && score >= requiredScore,
    place,
  })
}

/**
 * Compares requests with the sessions whose tokens they carry: country, network, browser and platform, and how fast the person
 * would have had to travel. A score of `requiredScore` or more is refused where the mode is `enforce`.
 *
 * Guarantee: nothing is refused but with `session.reauthentication_required`, and nothing for a user whom the rollout does not
 * reach. Cost: a look-up and two comparisons of texts for a client that was seen with this session since its fact was last read
 * (60 s by default), without a promise; else a look-up in the database of countries and a comparison. Keeps nothing longer than
 * the fact in memory. Degrades: a session that was opened before its origin was recorded is not compared.
 */
export const createScreening = ({
  mode,
  rolloutPercent,
  contexts,
  clock,
  record,
  placeOf,
}: {
  mode: SecurityContextMode
  /** Of the users, for whom `enforce` refuses. */
  rolloutPercent: number
  contexts: ClientContexts
  clock: Clock
  record: RecordSecurityEvent
  /** For the detection of anomalies. */
  placeOf?: PlaceOf | undefined
}) => {
  /** By the fact of the session: a session that changes has another one. */
  const known = new WeakMap<SessionOrigin, Known>()
  const reported = createTtlMap<true>({ clock, maxEntries: maxReported, ttlMs: reportEveryMs, jitter: 0 })
  const counts = {
    assessments: 0,
    refusals: 0,
    signals: Object.fromEntries(signals.map((signal) => [signal, 0])) as Record<Signal, number>,
  }

  const report = (
    context: Pick<RequestContext, 'requestId'>,
    { userId: user_id, sessionId: session_id, origin }: SessionOf,
    { address }: Client,
    { country }: ClientContext,
    { score, signals: found, isRefused: refused }: Assessment,
  ): void => {
    if (score < reportedScore) return
    const name = `${session_id} ${country} ${found.join()} ${refused}`
    if (reported.get(name).kind === 'hit') return
    reported.set(name, true)
    const session_country = origin?.countries[0] ?? null
    record(context, 'session.context_changed', {
      address,
      user_id,
      session_id,
      country,
      session_country,
      score,
      signals: found,
      refused,
    })
  }

  const compareNow = (
    session: SessionOf & { readonly origin: SessionOrigin },
    client: Client,
    context: Pick<RequestContext, 'requestId'>,
  ): Assessment => {
    const { sessionId, userId, origin } = session
    const current = contexts.of(client)
    const isOwnNetwork = (network: string) => contexts.isNetworkOf(sessionId, origin, network)
    const found = compare(origin, current, isOwnNetwork, clock.now())
    const enforced = mode === 'enforce' && isInRollout('security_context', userId, rolloutPercent)
    const assessment = toAssessment(found, enforced, placeOf?.(current))
    counts.assessments += 1
    for (const signal of found) counts.signals[signal] += 1
    report(context, session, client, current, assessment)
    return assessment
  }

  const find = (origin: SessionOrigin, address: string, userAgent: string): Assessment | undefined => {
    for (let each = known.get(origin); each !== undefined; each = each.older)
      if (each.address === address && each.userAgent === userAgent) return each.assessment
    return undefined
  }

  /** The latest first, without those that are too many. */
  const latest = (each: Known | undefined, room: number): Known | undefined =>
    each === undefined || room === 0 ? undefined : { ...each, older: latest(each.older, room - 1) }

  const assess = (session: SessionOf, client: Client, context: Pick<RequestContext, 'requestId'>): Assessment => {
    const { origin } = session
    if (mode === 'off') return switchedOff
    if (origin === undefined) return unassessed
    const found = find(origin, client.address, client.userAgent)
    if (found !== undefined) return found
    const assessment = compareNow({ ...session, origin }, client, context)
    known.set(origin, { ...client, assessment, older: latest(known.get(origin), maxKnown - 1) })
    return assessment
  }

  const refuse = (): never => {
    counts.refusals += 1
    throw contextRefused()
  }

  return {
    mode,
    rolloutPercent,
    countriesAsOf: contexts.countriesAsOf,
    counts,
    assess,

    /**
     * The finding about a request of a person. Throws `session.reauthentication_required` where it is refused, unless the route
     * is a way out.
     */
    screen: (session: SessionOf, context: ScreenedRequest, isWayOut: boolean): CircumstanceFinding => {
      if (mode === 'off') return off
      const { origin } = session
      if (origin === undefined) return notCompared
      const { request, addressOf } = context
      const address = addressOf(request)
      const userAgent = userAgentOf(request)
      const { isRefused, finding, place } =
        find(origin, address, userAgent) ?? assess(session, { address, userAgent }, context)
      context.place = place
      context.address = address
      context.userAgent = userAgent
      if (isRefused && !isWayOut) refuse()
      return finding
    },

    /** As `assess`, for a refresh. Throws `session.reauthentication_required` where it is refused. */
    require: (session: SessionOf, client: Client, context: Pick<RequestContext, 'requestId'>): Assessment => {
      const assessment = assess(session, client, context)
      if (assessment.isRefused) refuse()
      return assessment
    },
  }
}

export type Screening = ReturnType<typeof createScreening>
