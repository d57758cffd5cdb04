import { closed, oneOf, type Static, t } from '../http/schema-types.ts'
import type { Budget } from './policy.ts'

const budget = oneOf([
  'api',
  'generation',
  'media',
  'auth_account_and_address',
  'auth_account',
  'auth_address',
  'anonymous',
  'service_key',
] as const satisfies readonly Budget[])
const key = t.String({
  minLength: 1,
  maxLength: 300,
  description:
    'Who is limited: the id of a person or a service key, an address or its /64 network, or a hash of the name of an account',
})

export const limitedKeys = closed({
  items: t.Array(
    closed({
      budget,
      key,
      limit: t.Integer({ description: 'Units of the budget in its window' }),
      used: t.Integer({ description: 'Units counted in the window' }),
      refused: t.Integer({ description: 'Requests refused since the key was limited' }),
      retry_after_seconds: t.Integer({ description: 'When it has units again' }),
    }),
    { description: 'At most 200' },
  ),
})
export type LimitedKeys = Static<typeof limitedKeys>

export const lifting = closed({ budget, key })
