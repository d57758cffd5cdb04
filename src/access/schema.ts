import { closed, id, oneOf, type Static, t } from '../schema.ts'
import { actions, resourceTypes } from './model.ts'

export const question = closed({
  action: oneOf(actions),
  resource: closed({ type: oneOf(resourceTypes), id: id('The thing') }),
})
export type Question = Static<typeof question>

export const batch = closed({ checks: t.Array(question, { minItems: 1, maxItems: 200 }) })

export const decision = closed({ allowed: t.Boolean(), reason: t.String() })
export const decisions = closed({ results: t.Array(decision, { description: 'In the order of the checks' }) })

export const explanation = closed({
  allowed: t.Boolean(),
  reason: t.String(),
  layers: t.Array(
    closed({
      layer: t.Integer({ minimum: 1, maximum: 10 }),
      name: t.String(),
      verdict: oneOf(['allow', 'deny', 'abstain', 'skipped'] as const),
      reason: t.String(),
      tier: t.Union([oneOf(['l1', 'l2', 'l3', 'database'] as const), t.Null()]),
      microseconds: t.Number({ minimum: 0 }),
    }),
    { description: 'All ten, in the order of evaluation' },
  ),
})
