import { modes } from '../access/policy/modes.ts'
import { closed, oneOf, type Static, t } from '../http/schema-types.ts'
import { breakerModes, breakerStates, dependencies } from '../platform/breaker.ts'

const dependency = {
  ...oneOf(dependencies),
  description:
    'What this program depends on. `provider`: the providers of models. `siem`: the receiver of security events. `breached_passwords`: the service that PASSWORD_BREACH_URL names',
}
const mode = {
  ...oneOf(breakerModes),
  description:
    '`automatic`: opens after failures, and closes after a probe that succeeds. `closed`: every call is sent. `open`: no call is sent; not for `postgres`',
}
const failures = t.Integer({ minimum: 1, maximum: 1_000, description: 'Consecutive failures that open it' })
const probe_after_ms = t.Integer({
  minimum: 100,
  maximum: 600_000,
  description: 'How long after it opened, or after a probe failed, one call is sent as a probe, in milliseconds',
})
const count = (description: string) => t.Integer({ minimum: 0, description })

const breaker = closed({
  name: t.String({ description: 'The dependency; for a provider of models `provider.` and its name' }),
  dependency,
  state: {
    ...oneOf(breakerStates),
    description: '`half_open`: a probe is under way. `open`: nothing is sent; without a connection to Redis too',
  },
  changed_at: t.Union([t.String({ format: 'date-time' }), t.Null()], {
    description: 'When it last opened or closed; null since the start',
  }),
  reason: t.Union([t.String(), t.Null()], {
    description:
      'Why it last opened: the code or the name of an error. `no_answer`: Postgres answered on no connection. `held_open`: an operator set the mode `open`. Null: it has not opened since the start',
  }),
  opened: count('How often it opened since the start'),
  failed: count('Failures since the start'),
  refused: count('Calls that were not sent, since the start'),
})

export const policy = closed({ dependency, mode, failures, probe_after_ms })
export type PolicyAnswer = Static<typeof policy>

export const breakers = closed({
  instance: t.String({ description: 'Id of the instance that answered' }),
  instance_mode: t.Union([oneOf(modes), t.Null()], {
    description:
      'The mode that open breakers have set for this instance alone: `read-only` while that of Postgres is open. Null: none',
  }),
  breakers: t.Array(breaker, { description: 'Of this instance. A dependency that is not configured has none' }),
  policies: t.Array(policy, { description: 'The same on every instance' }),
})
export type BreakersAnswer = Static<typeof breakers>

export const dependencyParameter = t.Object({ dependency })

export const policyChange = t.Object(
  { mode: t.Optional(mode), failures: t.Optional(failures), probe_after_ms: t.Optional(probe_after_ms) },
  { additionalProperties: false, minProperties: 1 },
)
export type PolicyChange = Static<typeof policyChange>
