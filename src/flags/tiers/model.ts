import { closed, type Static, t } from '../../http/schema-types.ts'

const l1 = t.Boolean({ description: 'The cache in the memory of each instance' })
const l2 = t.Boolean({ description: 'The cache in Redis that all instances share' })
const l3 = t.Boolean({
  description: 'The effective access rows that triggers maintain; when off, access is computed from the base tables',
})
const warm_up = t.Boolean({ description: 'Whether memory is filled ahead of requests' })

export const flags = closed({ l1, l2, l3, warm_up })
export type FlagAnswer = Static<typeof flags>

export const flagChanges = t.Object(
  { l1: t.Optional(l1), l2: t.Optional(l2), l3: t.Optional(l3), warm_up: t.Optional(warm_up) },
  { additionalProperties: false, minProperties: 1 },
)
export type FlagChanges = Static<typeof flagChanges>
