import { withJsonText } from '../http/json-text.ts'
import type { Clock } from '../kit/clock.ts'
import type { GatheredFacts } from './cache/gather.ts'
import type { Tier } from './cache/tiered-loader.ts'
import { type Decision, decide, decisionOf, type Layer, layers, staleReads } from './policy/decide.ts'
import { noResource } from './policy/facts/resource-walk.ts'
import type { Action } from './policy/matrix.ts'
import type { Facts, Finding } from './policy/rules.ts'

export type TracedLayer = {
  readonly layer: number
  readonly name: string
  readonly verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  readonly reason: string
  readonly tier: Tier | null
  /** How long ago the oldest fact used was read from Postgres. */
  readonly age_ms: number | null
  /** With up to three decimals. */
  readonly microseconds: number
}

export type Explanation = Decision & { readonly layers: TracedLayer[] }

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

const factsPlace = layers.findIndex(({ layer }) => layer === factsLayer)

/** The layers before and after that of the facts, and the JSON of all layers but for the figures of that one. */
type Surroundings = {
  readonly before: TracedLayer[]
  readonly after: readonly TracedLayer[]
  readonly beforeText: string
  readonly loadingText: string
  readonly afterText: string
}

const jsonOfEach = (traced: readonly TracedLayer[]): string => traced.map((one) => JSON.stringify(one)).join(',')

const makeSurroundings = (findings: readonly Finding[], nanoseconds: number): Surroundings => {
  const traced = layers.map(({ layer, name }, at): TracedLayer => {
    const { verdict, reason } = findings[at] as Finding
    return Object.freeze({ layer, name, verdict, reason, tier: null, age_ms: null, microseconds: nanoseconds / 1_000 })
  })
  const [before, after] = [traced.slice(0, factsPlace), traced.slice(factsPlace + 1)]
  const { layer, name } = layers[factsPlace] as Layer
  const { verdict, reason } = findings[factsPlace] as Finding
  const loadingText = `,${JSON.stringify({ layer, name, verdict, reason }).slice(0, -1)},`
  return { before, after, beforeText: jsonOfEach(before), loadingText, afterText: jsonOfEach(after) }
}

/** Findings are few constants, so that those of all layers fit into one number. */
const maxFindings = 32
const findingNumbers = new Map<Finding, number>()
const numberOf = (finding: Finding): number => {
  const known = findingNumbers.get(finding)
  if (known !== undefined) return known
  findingNumbers.set(finding, findingNumbers.size)
  return findingNumbers.size - 1
}

/** By the findings, then by the time. Decisions have few of both, and making the JSON of ten layers costs more than to decide. */
const madeBefore = new Map<number, Surroundings[]>()
const maxNanoseconds = 256
/** Each takes about 2 KiB. */
const maxMade = 1_000
let made = 0

const surroundingsOf = (findings: readonly Finding[], nanoseconds: number): Surroundings => {
  let name = 0
  for (let at = 0; at < findings.length; at += 1) name = name * maxFindings + numberOf(findings[at] as Finding)
  const known = madeBefore.get(name)?.[nanoseconds]
  if (known !== undefined) return known
  const surroundings = makeSurroundings(findings, nanoseconds)
  if (nanoseconds >= maxNanoseconds || findingNumbers.size > maxFindings) return surroundings
  if (made === maxMade) {
    madeBefore.clear()
    made = 0
  }
  const byTime = madeBefore.get(name) ?? []
  madeBefore.set(name, byTime)
  byTime[nanoseconds] = surroundings
  made += 1
  return surroundings
}

/** The JSON of short times, by nanoseconds: writing a fraction costs more than most of what is timed. */
const timeTexts: string[] = []
const maxKnownNanoseconds = 10_000

const timeTextOf = (nanoseconds: number): string => {
  if (nanoseconds >= maxKnownNanoseconds) return JSON.stringify(nanoseconds / 1_000)
  timeTexts[nanoseconds] ??= JSON.stringify(nanoseconds / 1_000)
  return timeTexts[nanoseconds]
}

/** The JSON of a decision up to the first layer. */
const headTexts = new WeakMap<Decision, string>()
const headTextOf = (decision: Decision): string => {
  const known = headTexts.get(decision)
  if (known !== undefined) return known
  const text = `${JSON.stringify(decision).slice(0, -1)},"layers":[`
  headTexts.set(decision, text)
  return text
}

/** The findings of the decision under way, which waits for nothing. */
const findings: Finding[] = []
const addFinding = (_: Layer, finding: Finding) => void findings.push(finding)

type FactsSource = Pick<GatheredFacts, 'tier' | 'ageMs'> & {
  /** When the loading of the facts began. */
  readonly startedMs: number
}

const toNanoseconds = (ms: number): number => Math.round(ms * 1_000_000)

/**
 * Decides, and traces each layer. Tier, age and time of the loading are those of layer 7, which stands for loading the facts.
 * The others take less than reading a clock: they are timed together, and each has an equal share.
 */
export const explainDecision = (
  clock: Pick<Clock, 'monotonic'>,
  facts: Facts,
  action: Action,
  { tier, ageMs, startedMs }: FactsSource,
): Explanation => {
  findings.length = 0
  const loadedMs = clock.monotonic()
  const decision = redactDecision(facts, action, decide(facts, action, addFinding))
  const share = toNanoseconds((clock.monotonic() - loadedMs) / (layers.length - 1))
  const { before, after, beforeText, loadingText, afterText } = surroundingsOf(findings, share)
  const { layer, name } = layers[factsPlace] as Layer
  const { verdict, reason } = findings[factsPlace] as Finding
  const age_ms = Math.round(ageMs)
  const nanoseconds = toNanoseconds(loadedMs - startedMs)
  const loading = { layer, name, verdict, reason, tier, age_ms, microseconds: nanoseconds / 1_000 }
  const figures = `"tier":"${tier}","age_ms":${age_ms},"microseconds":${timeTextOf(nanoseconds)}`
  const text = `${headTextOf(decision)}${beforeText}${loadingText}${figures}},${afterText}]}`
  return withJsonText(
    { allowed: decision.allowed, reason: decision.reason, layers: before.concat(loading, after) },
    text,
  )
}
