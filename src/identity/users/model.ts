import {
  closed,
  email,
  id,
  nameText,
  oneOf,
  pageOf,
  pageQuery,
  type Static,
  t,
  timestamp,
} from '../../http/schema-types.ts'
import { maxBudget, maxQuota, planBudgetNames, quotaNames } from '../../limits/policy.ts'
import { user } from '../model.ts'
import { sourceKinds } from '../sign-in-rules.ts'

const { role, plan, status } = user.properties

/** Budgets in units per minute, and quotas, as in src/limits/policy.ts. */
const accountLimits = t.Object(
  {
    ...Object.fromEntries(
      planBudgetNames.map((name) => [name, t.Optional(t.Integer({ minimum: 1, maximum: maxBudget }))]),
    ),
    ...Object.fromEntries(quotaNames.map((name) => [name, t.Optional(t.Integer({ minimum: 1, maximum: maxQuota }))])),
  },
  {
    additionalProperties: false,
    description: 'Budgets per minute and quotas of this account, each instead of the one of its plan',
  },
)
const ownLimits = t.Union([accountLimits, t.Null()])

export const accountParams = closed({ user_id: id('User') })

export const accountQuery = closed({
  ...pageQuery,
  email: t.Optional({ ...email, description: 'The complete email address. Case is ignored' }),
  status: t.Optional(status),
})

export const newAccount = closed({
  email,
  display_name: t.Optional(nameText(100)),
  plan: t.Optional(plan),
})
export type NewAccount = Static<typeof newAccount>

/** `deleted` is missing from the statuses: only its owner can close an account. */
export const accountChanges = t.Object(
  {
    status: t.Optional(oneOf(['active', 'suspended'] as const)),
    role: t.Optional(role),
    plan: t.Optional(plan),
    limits: t.Optional(ownLimits),
    email_verified: t.Optional(
      t.Boolean({
        description: 'True also gives the welcome credits that were pending, unless their limit withholds them',
      }),
    ),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type AccountChanges = Static<typeof accountChanges>

export const account = closed({
  ...user.properties,
  email: t.Union([t.String(), t.Null()], { description: 'Null once the account is deleted' }),
  limits: ownLimits,
})
export type Account = Static<typeof account>
export const signInFailures = closed({
  items: t.Array(
    closed({
      source: oneOf(sourceKinds),
      network: t.Union([t.String(), t.Null()], { description: 'Of the source `network`' }),
      failures: t.Integer({ description: 'Consecutive ones' }),
      last_failed_at: timestamp(),
      paused_until: t.Union([timestamp(), t.Null()], {
        description: 'Until then no attempt of this source is verified. Null before the first pause',
      }),
    }),
    { description: 'Those that failed last first, at most 100' },
  ),
})
export type SignInFailures = Static<typeof signInFailures>
export const accountPage = pageOf(account)
