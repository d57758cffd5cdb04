import type { Clock } from '../kit/clock.ts'
import type { GatheredFacts } from './cache/gather.ts'
import type { Tier } from './cache/tiered-loader.ts'
import { type Decision, decide, decisionOf, layers, staleReads } from './policy/decide.ts'
import { noResource } from './policy/facts/resource-walk.ts'
import type { Action } from './policy/matrix.ts'
import type { Facts } from './policy/rules.ts'

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

/** Decides, timing each layer. Tier, age and `gatheredInMs` are reported for layer 7, which stands for loading the facts. */
export const explainDecision = (
  clock: Pick<Clock, 'monotonic'>,
  facts: Facts,
  action: Action,
  { tier, ageMs }: Pick<GatheredFacts, 'tier' | 'ageMs'>,
  gatheredInMs: number,
): Explanation => {
  const traced: TracedLayer[] = []
  let sinceMs = clock.monotonic()
  const decision = decide(facts, action, ({ layer, name }, { verdict, reason }) => {
    const nowMs = clock.monotonic()
    const isFactsLayer = layer === factsLayer
    const microseconds = Math.round((isFactsLayer ? gatheredInMs : nowMs - sinceMs) * 1_000_000) / 1_000
    const source = isFactsLayer ? { tier, age_ms: Math.round(ageMs) } : { tier: null, age_ms: null }
    traced.push({ layer, name, verdict, reason, ...source, microseconds })
    sinceMs = nowMs
  })
  const { allowed, reason } = redactDecision(facts, action, decision)
  return { allowed, reason, layers: traced }
}
