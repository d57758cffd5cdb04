import { Type as t } from '@sinclair/typebox'
import { type Plan, plans } from '../../../limits/plans.ts'
import { accountRoles, accountStatuses } from '../matrix.ts'
import { exactly, type FactDefinition, oneOf, orNull, type RowSource } from './definition.ts'

const statuses = [...accountStatuses, 'blocked'] as const

export type AccountFact = {
  /** `blocked`: active, and blocked by an operator or by the detection of anomalies for some time. */
  readonly status: (typeof statuses)[number]
  readonly role: (typeof accountRoles)[number]
  readonly plan: Plan
  /** Figures that an operator set for the account, by budget and quota; null: those of its plan. */
  readonly limits: Readonly<Record<string, number>> | null
}

type Row = {
  readonly account_status: AccountFact['status']
  readonly account_role: AccountFact['role']
  readonly account_plan: AccountFact['plan']
  readonly account_limits: AccountFact['limits']
}

const row: RowSource<AccountFact, Row> = {
  alias: 'u',
  select: {
    account_status: `case when u.blocked and u.status = 'active' then 'blocked' else u.status end`,
    account_role: 'u.role',
    account_plan: 'u.plan',
    account_limits: 'u.limits',
  },
  toFact: (row) => ({
    status: row.account_status,
    role: row.account_role,
    plan: row.account_plan,
    limits: row.account_limits,
  }),
}

export const account: FactDefinition<'account', AccountFact> = {
  kind: 'account',
  schema: exactly({
    status: oneOf(statuses),
    role: oneOf(accountRoles),
    plan: oneOf(plans),
    limits: orNull(t.Record(t.String(), t.Number())),
  }),
  table: 'users',
  columns: ['status', 'role', 'plan', 'limits', 'blocked'],
  row,
}
