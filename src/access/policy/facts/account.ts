import { accountRoles, accountStatuses, plans } from '../matrix.ts'
import { exactly, type FactDefinition, oneOf, type RowSource } from './definition.ts'

export type AccountFact = {
  readonly status: (typeof accountStatuses)[number]
  readonly role: (typeof accountRoles)[number]
  readonly plan: (typeof plans)[number]
}

type Row = {
  readonly account_status: AccountFact['status']
  readonly account_role: AccountFact['role']
  readonly account_plan: AccountFact['plan']
}

const row: RowSource<AccountFact, Row> = {
  alias: 'u',
  select: { account_status: 'u.status', account_role: 'u.role', account_plan: 'u.plan' },
  toFact: (row) => ({ status: row.account_status, role: row.account_role, plan: row.account_plan }),
}

export const account: FactDefinition<'account', AccountFact> = {
  kind: 'account',
  schema: exactly({ status: oneOf(accountStatuses), role: oneOf(accountRoles), plan: oneOf(plans) }),
  table: 'users',
  columns: ['status', 'role', 'plan'],
  row,
}
