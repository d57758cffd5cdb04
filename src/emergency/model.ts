import { modes } from '../access/policy/modes.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, timestamp } from '../http/schema-types.ts'

const maxReason = 500
const hour = 3_600
const day = 86_400
const maxModeS = 7 * day
const maxBlockS = 365 * day
export const defaultModeS = hour
export const defaultBlockS = day

const reason = t.String({ maxLength: maxReason, description: 'For other operators' })

export const newMode = closed({
  mode: oneOf(modes),
  reason: t.Optional(reason),
  expires_in: t.Optional(
    t.Integer({
      minimum: 60,
      maximum: maxModeS,
      description: 'Seconds until the mode is normal again; default 3600. Of no effect for `normal`',
    }),
  ),
})
export type NewMode = Static<typeof newMode>

export const mode = closed({
  mode: oneOf(modes),
  reason,
  set_by: t.Union([id('User'), t.Null()], {
    description: 'The operator; null where the mode expired, or was lifted from the command line',
  }),
  set_at: timestamp(),
  expires_at: t.Union([timestamp(), t.Null()]),
  instance_mode: t.Union([oneOf(modes), t.Null()], {
    description: 'A stricter mode of the instance that answered, set by its circuit breakers; null where it has none',
  }),
})
export type ModeAnswer = Static<typeof mode>

export const blockKinds = ['address', 'network', 'user', 'key'] as const
export type BlockKind = (typeof blockKinds)[number]
export const blockSources = ['operator', 'anomaly'] as const
export type BlockSource = (typeof blockSources)[number]

const value = t.String({
  minLength: 1,
  maxLength: 64,
  description:
    'An IPv4 or IPv6 address, a network in CIDR notation, or the id of a user or a service key. An IPv6 address stands for its /64 network',
})

export const newBlock = closed({
  kind: oneOf(blockKinds),
  value,
  reason: t.Optional(reason),
  expires_in: t.Optional(
    t.Integer({
      minimum: 60,
      maximum: maxBlockS,
      description: 'Seconds until the block ends; default 86400',
    }),
  ),
})
export type NewBlock = Static<typeof newBlock>

export const block = closed({
  id: id('Block'),
  kind: oneOf(blockKinds),
  value,
  source: oneOf(blockSources),
  reason,
  created_by: t.Union([id('User'), t.Null()], { description: 'The operator; null for the detection of anomalies' }),
  created_at: timestamp(),
  expires_at: timestamp(),
})
export type Block = Static<typeof block>

export const blockParams = closed({ block_id: id('Block') })
export const blockQuery = closed({ ...pageQuery, kind: t.Optional(oneOf(blockKinds)) })
export const blockPage = pageOf(block)
