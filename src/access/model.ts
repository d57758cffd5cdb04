import { closed, id, oneOf, pageOf, pageQuery, type Static, t } from '../http/schema-types.ts'
import { tiers } from './cache/tiered-loader.ts'
import { actions, listedTypes, resourceTypes } from './policy/matrix.ts'

const aboutUser = t.Optional(id('About whom: a service says it, a person may only name itself'))

export const question = closed({
  user_id: aboutUser,
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
      tier: t.Union([oneOf(tiers), t.Null()], { description: 'Where the facts came from; on layer 7 only' }),
      age_ms: t.Union([t.Integer({ minimum: 0 }), t.Null()], {
        description: 'How long ago the oldest of the facts was true; on layer 7 only',
      }),
      microseconds: t.Number({ minimum: 0 }),
    }),
    { description: 'All ten, in the order of evaluation' },
  ),
})

export const accessibleQuery = closed({
  type: oneOf(listedTypes),
  action: oneOf(actions),
  user_id: aboutUser,
  ...pageQuery,
})
export type AccessibleQuery = Static<typeof accessibleQuery>

export const whoQuery = closed({
  type: oneOf(listedTypes),
  id: id('The thing'),
  action: oneOf(actions),
  ...pageQuery,
})
export type WhoQuery = Static<typeof whoQuery>

export const accessible = pageOf(closed({ type: oneOf(listedTypes), id: id('The thing') }))

export const who = closed({
  items: t.Array(closed({ user_id: id('User') }), {
    description: 'People who may do it by owning it or through a team',
  }),
  everyone: t.Boolean({ description: 'Whether besides them everybody may who is signed in, because it is public' }),
  next_cursor: t.Union([t.String(), t.Null()]),
})
