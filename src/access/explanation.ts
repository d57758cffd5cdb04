import { jsonTextOf, withJsonText } from '../http/json-text.ts'
import type { Clock } from '../kit/clock.ts'
import type { GatheredFacts } from './cache/gather.ts'
import type { Tier } from './cache/tiered-loader.ts'
import { type Decision, decide, decisionOf, type Layer, layers, staleReads } from './policy/decide.ts'
import { noResource } from './policy/facts/resource-walk.ts'
import type { Action } from './policy/matrix.ts'
import type { Facts, Finding } from './policy/rules.ts'

export type TracedLayer = {
  layer: number
  name: string
  verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  reason: string
  tier: Tier | null
  /** How long ago the oldest fact used was read from Postgres. */
  age_ms: number | null
  /** With up to three decimals. */
  microseconds: number
}

export type Explanation = Decision & { layers: TracedLayer[] }

/** The layer that checks the account of the user. */
const accountLayer = 4
/** The layer that stands for loading the facts. */
const factsLayer = 7

const notVisible = decisionOf(false, 'resource.not_visible')

/** Only denials have such a reason: an active account is no reason to allow. */
const isAboutAccount = ({ reason }: Decision): boolean => reason.startsWith('account.')

/**
 * The decision as a client may see it. Where the user may not read the resource, a denial is the one for a resource that
 * does not exist. A denial for the state of the user's account stays: it does not depend on the resource.
 */
export const redactDecision = (facts: Facts, action: Action, decision = decide(facts, action)): Decision => {
  if (decision.allowed || isAboutAccount(decision)) return decision
  return action !== 'read' && decide(facts, 'read').allowed ? decision : notVisible
}

/** Marks a decision on stale facts, so that a service that reads only the body sees it. */
export const markDegraded = <D extends Decision>(decision: D, { stale }: Pick<GatheredFacts, 'stale'>): D =>
  stale ? { ...decision, degraded: staleReads } : decision

/** The finding of each layer, but for that of the account, about a resource that does not exist. */
const notVisibleFindings = new Map(
  layers
    .filter(({ layer }) => layer !== accountLayer)
    .map(({ layer, evaluate }) => [layer, evaluate({ userId: '', account: undefined, ...noResource }, 'read')]),
)

/**
 * The explanation that the user it is about may see. A service needs no redaction, because it may ask about any user.
 *
 * Guarantee: where the user may not read the resource, or has no active account, the explanation equals that of a resource
 * that does not exist: each layer has the same finding, and none has tier, age or time, because a fact that another
 * user's requests put into a cache would reveal that the resource exists. Not covered: the response time, which shows
 * whether the facts were in memory; those of unknown ids are cached there too.
 */
export const redactExplanation = (explanation: Explanation): Explanation =>
  explanation.reason !== notVisible.reason && !isAboutAccount(explanation)
    ? explanation
    : {
        ...explanation,
        layers: explanation.layers.map((traced) => ({
          ...traced,
          ...notVisibleFindings.get(traced.layer),
          tier: null,
          age_ms: null,
          microseconds: 0,
        })),
      }

/** The JSON of each finding of each layer, up to its source and time: there are few, so each is made once. */
const tracedTexts: readonly Map<Finding, string>[] = Array.from({ length: layers.length + 1 }, () => new Map())

const tracedTextOf = ({ layer, name }: Layer, finding: Finding): string => {
  const known = tracedTexts[layer]?.get(finding)
  if (known !== undefined) return known
  const { verdict, reason } = finding
  const text = `${JSON.stringify({ layer, name, verdict, reason }).slice(0, -1)},"tier":`
  tracedTexts[layer]?.set(finding, text)
  return text
}

const maxKnownNanoseconds = 10_000
/** The JSON of times under 10 µs, by nanoseconds: writing a fraction costs more than most layers take. */
const timeTexts: string[] = []

const timeTextOf = (nanoseconds: number): string => {
  if (nanoseconds >= maxKnownNanoseconds) return JSON.stringify(nanoseconds / 1_000)
  timeTexts[nanoseconds] ??= JSON.stringify(nanoseconds / 1_000)
  return timeTexts[nanoseconds]
}

type FactsSource = Pick<GatheredFacts, 'tier' | 'ageMs'> & {
  /** When the loading of the facts began. */
  readonly startedMs: number
}

/**
 * Decides, timing each layer. Tier, age and time of the loading are reported for layer 7, which stands for loading the facts.
 * The JSON text is joined from constant parts.
 */
export const explainDecision = (
  clock: Pick<Clock, 'monotonic'>,
  facts: Facts,
  action: Action,
  { tier, ageMs, startedMs }: FactsSource,
): Explanation => {
  const traced: TracedLayer[] = []
  let text = ''
  let sinceMs = clock.monotonic()
  const gatheredInMs = sinceMs - startedMs
  const age_ms = Math.round(ageMs)
  const decision = decide(facts, action, (evaluated, finding) => {
    const nowMs = clock.monotonic()
    const { layer, name } = evaluated
    const { verdict, reason } = finding
    const isFactsLayer = layer === factsLayer
    const nanoseconds = Math.round((isFactsLayer ? gatheredInMs : nowMs - sinceMs) * 1_000_000)
    const microseconds = nanoseconds / 1_000
    text += text === '' ? tracedTextOf(evaluated, finding) : `,${tracedTextOf(evaluated, finding)}`
    if (isFactsLayer) {
      text += `"${tier}","age_ms":${age_ms},"microseconds":${timeTextOf(nanoseconds)}}`
      traced.push({ layer, name, verdict, reason, tier, age_ms, microseconds })
    } else {
      text += `null,"age_ms":null,"microseconds":${timeTextOf(nanoseconds)}}`
      traced.push({ layer, name, verdict, reason, tier: null, age_ms: null, microseconds })
    }
    sinceMs = nowMs
  })
  const redacted = redactDecision(facts, action, decision)
  const { allowed, reason } = redacted
  return withJsonText({ allowed, reason, layers: traced }, `${jsonTextOf(redacted).slice(0, -1)},"layers":[${text}]}`)
}
