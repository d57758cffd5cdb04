import { withJsonText } from '../http/json-text.ts'
import type { Clock } from '../kit/clock.ts'
import type { GatheredFacts } from './cache/gather.ts'
import type { Tier } from './cache/tiered-loader.ts'
import {
  type Decision,
  decide,
  decisionOf,
  type Layer,
  layers,
  layersOfCircumstances,
  staleReads,
} from './policy/decide.ts'
import { noResource } from './policy/facts/resource-walk.ts'
import { type Circumstances, type Finding, finding, noCircumstances } from './policy/findings.ts'
import type { Action } from './policy/matrix.ts'
import type { Facts } from './policy/rules.ts'

export type TracedLayer = {
  readonly layer: number
  readonly name: string
  /** Why it is evaluated where it is. */
  readonly placed: Layer['placed']
  readonly verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  readonly reason: string
  readonly tier: Tier | null
  /** How long ago the oldest fact used was read from Postgres. */
  readonly age_ms: number | null
  /** With up to three decimals. */
  readonly microseconds: number
}

export type Explanation = Decision & { readonly layers: TracedLayer[] }

/** The layer that stands for loading the facts. */
const factsLayer = 7
/** The layer that records the decision. */
const auditLayer = 8

const notVisible = decisionOf(false, 'resource.not_visible')

const resourceIndependent: ReadonlySet<string> = new Set(['account', 'anomaly', 'context', 'emergency'])

/** Whether the same denial answers about any resource, for the account or a circumstance. None of them is a reason to allow. */
const isResourceIndependent = ({ reason }: Decision): boolean =>
  resourceIndependent.has(reason.slice(0, reason.indexOf('.')))

/**
 * The decision as a client may see it. Where the user may not read the resource, a denial is the one for a resource that
 * does not exist. A denial for the state of the user's account or for a circumstance stays: it does not depend on the resource.
 */
export const redactDecision = (
  facts: Facts,
  action: Action,
  circumstances: Circumstances = noCircumstances,
  decision = decide(facts, action, circumstances),
): Decision => {
  if (decision.allowed || isResourceIndependent(decision)) return decision
  return action !== 'read' && decide(facts, 'read', circumstances).allowed ? decision : notVisible
}

/** Marks a decision on stale facts, so that a service that reads only the body sees it. */
export const markDegraded = <D extends Decision>(decision: D, { stale }: Pick<GatheredFacts, 'stale'>): D =>
  stale ? { ...decision, degraded: staleReads } : decision

/**
 * What each layer finds about a resource that does not exist, without those whose findings do not depend on the resource. That of
 * the audit does not: what is redacted was denied, and each denial is recorded.
 */
const notVisibleFindings = new Map(
  layers
    .filter(({ layer }) => layer !== auditLayer && !layersOfCircumstances.includes(layer))
    .map(({ layer, evaluate }) => [
      layer,
      evaluate({ userId: '', account: undefined, ...noResource }, 'read', noCircumstances),
    ]),
)

/**
 * The explanation that the user it is about may see. A service needs no redaction, because it may ask about any user.
 *
 * Guarantee: where the user may not read the resource, has no active account or is denied by a circumstance, the explanation
 * equals that of a resource that does not exist: each layer has the same finding, and none has tier, age or time, because a fact
 * that another user's requests put into a cache would reveal that the resource exists. Not covered: the response time, which
 * shows whether the facts were in memory; those of unknown ids are cached there too.
 */
export const redactExplanation = (explanation: Explanation): Explanation =>
  explanation.reason !== notVisible.reason && !isResourceIndependent(explanation)
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
const auditPlace = layers.findIndex(({ layer }) => layer === auditLayer)

/** What layer 8 did with the decision. */
const audited = {
  denied: finding('abstain', 'audit.denial_recorded'),
  sampled: finding('abstain', 'audit.allow_recorded'),
  left: finding('abstain', 'audit.allow_not_sampled'),
  lost: finding('skipped', 'audit.not_recorded'),
} as const

const auditFinding = ({ allowed }: Decision, isRecorded: boolean): Finding => {
  if (allowed) return isRecorded ? audited.sampled : audited.left
  return isRecorded ? audited.denied : audited.lost
}

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
  const traced = layers.map(({ layer, name, placed }, at): TracedLayer => {
    const { verdict, reason } = findings[at] as Finding
    const microseconds = nanoseconds / 1_000
    return Object.freeze({ layer, name, placed, verdict, reason, tier: null, age_ms: null, microseconds })
  })
  const [before, after] = [traced.slice(0, factsPlace), traced.slice(factsPlace + 1)]
  const { layer, name, placed } = layers[factsPlace] as Layer
  const { verdict, reason } = findings[factsPlace] as Finding
  const loadingText = `,${JSON.stringify({ layer, name, placed, verdict, reason }).slice(0, -1)},`
  return { before, after, beforeText: jsonOfEach(before), loadingText, afterText: jsonOfEach(after) }
}

/** The findings of a layer are few constants, so that those of all layers fit into one number. */
const maxFindings = 32
const findingNumbers = layers.map(() => new Map<Finding, number>())
/** The number of a finding among those of its layer, from `maxFindings` on where there are more. */
const numberOf = (finding: Finding, at: number): number => {
  const numbers = findingNumbers[at] as Map<Finding, number>
  const known = numbers.get(finding)
  if (known !== undefined) return known
  if (numbers.size === maxFindings) return maxFindings
  numbers.set(finding, numbers.size)
  return numbers.size - 1
}

/** By the findings, then by the time. Decisions have few of both, and making the JSON of ten layers costs more than to decide. */
const madeBefore = new Map<number, Surroundings[]>()
const maxNanoseconds = 256
/** Each takes about 2 KiB. */
const maxMade = 1_000
let made = 0

const surroundingsOf = (findings: readonly Finding[], nanoseconds: number): Surroundings => {
  let name = 0
  let isNumbered = true
  for (let at = 0; at < findings.length; at += 1) {
    const number = numberOf(findings[at] as Finding, at)
    if (number === maxFindings) isNumbered = false
    name = name * maxFindings + number
  }
  const known = isNumbered ? madeBefore.get(name)?.[nanoseconds] : undefined
  if (known !== undefined) return known
  const surroundings = makeSurroundings(findings, nanoseconds)
  if (nanoseconds >= maxNanoseconds || !isNumbered) return surroundings
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

/** Records a decision in the audit log, as far as it is sampled. Returns whether it did. */
export type RecordDecision = (decision: Decision) => boolean

export const notRecorded: RecordDecision = () => false

const toNanoseconds = (ms: number): number => Math.round(ms * 1_000_000)

/**
 * Decides, and traces each layer. Tier, age and time of the loading are those of layer 7, which stands for loading the facts.
 * The others take less than reading a clock: they are timed together, and each has an equal share.
 */
export const explainDecision = (
  clock: Pick<Clock, 'monotonic'>,
  { facts, action, circumstances }: { facts: Facts; action: Action; circumstances: Circumstances },
  { tier, ageMs, startedMs }: FactsSource,
  record: RecordDecision,
): Explanation => {
  findings.length = 0
  const loadedMs = clock.monotonic()
  const decision = redactDecision(facts, action, circumstances, decide(facts, action, circumstances, addFinding))
  const share = toNanoseconds((clock.monotonic() - loadedMs) / (layers.length - 1))
  findings[auditPlace] = auditFinding(decision, record(decision))
  const { before, after, beforeText, loadingText, afterText } = surroundingsOf(findings, share)
  const { layer, name, placed } = layers[factsPlace] as Layer
  const { verdict, reason } = findings[factsPlace] as Finding
  const age_ms = Math.round(ageMs)
  const nanoseconds = toNanoseconds(loadedMs - startedMs)
  const loading = { layer, name, placed, verdict, reason, tier, age_ms, microseconds: nanoseconds / 1_000 }
  const figures = `"tier":"${tier}","age_ms":${age_ms},"microseconds":${timeTextOf(nanoseconds)}`
  const text = `${headTextOf(decision)}${beforeText}${loadingText}${figures}},${afterText}]}`
  return withJsonText(
    { allowed: decision.allowed, reason: decision.reason, layers: before.concat(loading, after) },
    text,
  )
}
