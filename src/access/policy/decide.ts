import { type Circumstances, type Finding, finding, noCircumstances } from './findings.ts'
import type { Action } from './matrix.ts'
import { inNormalMode } from './modes.ts'
import type { Facts } from './rules.ts'
import { account, lineage, media, ownership, teamAccess, visibility } from './rules.ts'

/**
 * The reason for the place of a layer in the order of evaluation. The number of a layer is a name and says nothing about it.
 *
 * - `needs_no_resource`: its denial says nothing about the resource, so it is the first reason to be given.
 * - `loads_facts`: it stands for loading the facts that the layers after it read.
 * - `by_number`: layers that read facts about the resource follow their numbers.
 * - `after_decision`: it records the decision that the others have made.
 */
export const layerPlaces = ['needs_no_resource', 'loads_facts', 'by_number', 'after_decision'] as const

export type Layer = {
  readonly layer: number
  readonly name: string
  readonly placed: (typeof layerPlaces)[number]
  readonly evaluate: (facts: Facts, action: Action, circumstances: Circumstances) => Finding
}

const factsLoaded = finding('abstain', 'facts.at_hand')
const noAnomaly = finding('abstain', 'anomaly.none')
const auditedLater = finding('abstain', 'audit.after_decision')

/** The account first: the context of a request says nothing for an account that may do nothing. */
const accountThenContext: Layer['evaluate'] = (facts, action, { context }) => {
  const found = account(facts, action)
  return found.verdict === 'deny' ? found : (context ?? found)
}

/**
 * The ten layers in order of evaluation, which `placed` explains. Their numbers are fixed names. Each is a pure function of the
 * facts and, for 10, 4 and 9, of the circumstances. Layer 7 loads the facts before the others run, so here it only abstains; its
 * line in a trace names the tier. Layer 8 records the decision once it is made; its line in a trace says whether it did.
 */
export const layers: readonly Layer[] = [
  {
    layer: 10,
    name: 'rate_and_anomaly',
    placed: 'needs_no_resource',
    evaluate: (_facts, _action, { anomaly }) => anomaly ?? noAnomaly,
  },
  { layer: 4, name: 'security_context', placed: 'needs_no_resource', evaluate: accountThenContext },
  {
    layer: 9,
    name: 'emergency',
    placed: 'needs_no_resource',
    evaluate: (_facts, _action, { emergency }) => emergency ?? inNormalMode,
  },
  { layer: 7, name: 'performance', placed: 'loads_facts', evaluate: () => factsLoaded },
  { layer: 1, name: 'direct_ownership', placed: 'by_number', evaluate: ownership },
  { layer: 2, name: 'team_access', placed: 'by_number', evaluate: teamAccess },
  { layer: 3, name: 'project_visibility', placed: 'by_number', evaluate: visibility },
  { layer: 5, name: 'lineage', placed: 'by_number', evaluate: lineage },
  { layer: 6, name: 'media', placed: 'by_number', evaluate: media },
  { layer: 8, name: 'audit', placed: 'after_decision', evaluate: () => auditedLater },
]

/** The layers whose findings do not depend on the resource. */
export const layersOfCircumstances: readonly number[] = layers
  .filter(({ placed }) => placed === 'needs_no_resource')
  .map(({ layer }) => layer)

/** `degraded`: decided on stale facts, while Postgres is down for every instance. */
export type Decision = { readonly allowed: boolean; readonly reason: string; readonly degraded?: typeof staleReads }

/** How an answer on stale facts is marked, in its body and in its header `Velro-Degraded`. */
export const staleReads = 'stale-reads'

/** Decisions are few, so each exists once. By verdict and reason. */
const decisions = { allow: new Map<string, Decision>(), deny: new Map<string, Decision>() } as const

export const decisionOf = (allowed: boolean, reason: string): Decision => {
  const known = decisions[allowed ? 'allow' : 'deny']
  const found = known.get(reason)
  if (found !== undefined) return found
  const made = Object.freeze({ allowed, reason })
  known.set(reason, made)
  return made
}

const deniedByDefault = decisionOf(false, 'default.deny')

/**
 * Evaluates the layers. Default deny: the first deny decides, an allow holds unless a later layer denies, and if all abstain
 * the answer is no. With `onFinding`, every layer is evaluated and reported, for a trace; without it, only the answer is
 * allocated.
 */
export const decide = (
  facts: Facts,
  action: Action,
  circumstances: Circumstances = noCircumstances,
  onFinding?: (layer: Layer, finding: Finding) => void,
): Decision => {
  let deny: Finding | undefined
  let allow: Finding | undefined
  for (const layer of layers) {
    const finding = layer.evaluate(facts, action, circumstances)
    onFinding?.(layer, finding)
    if (finding.verdict === 'deny') {
      deny ??= finding
      if (onFinding === undefined) break
    } else if (finding.verdict === 'allow') {
      allow ??= finding
    }
  }
  if (deny !== undefined) return decisionOf(false, deny.reason)
  if (allow !== undefined) return decisionOf(true, allow.reason)
  return deniedByDefault
}
