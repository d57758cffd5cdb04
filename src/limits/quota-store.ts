import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { Plan } from './plans.ts'
import type { AccountLimits, Quota } from './policy.ts'

/** Quotas whose use belongs to one account. Members are those of a team. */
export type AccountQuota = Exclude<Quota, 'team_members'>

export type Allowance = { readonly plan: Plan; readonly limits: AccountLimits | null }
/** How much of a quota an account uses, and what its quota is decided by. */
export type UsageRow = Allowance & { readonly quota: AccountQuota; readonly used: number }

export const createQuotaStore = (sql: Sql) => {
  const allowance = (on: Queryable) => on`u.plan, u.limits`

  return {
    /**
     * Locks what an account holds until the transaction ends, and counts it: every change that adds to it takes this lock, so
     * the counts hold until then. Call it after the locks of all other rows but jobs and balances.
     */
    lockUsage: (tx: TransactionSql, userId: string, quotas: readonly AccountQuota[]): Promise<UsageRow[]> => tx<
      UsageRow[]
    >`
      select ${allowance(tx)}, l.quota, l.used::float8 as used
        from users u cross join lock_usage(u.id, ${quotas as AccountQuota[]}::text[]) l where u.id = ${userId}`,

    /** As `lockUsage`, without the lock: it may have changed when this resolves. */
    findUsage: (deadline: Deadline, userId: string, quotas: readonly AccountQuota[]): Promise<UsageRow[]> =>
      deadline.run(sql<UsageRow[]>`
        select ${allowance(sql)}, q.quota, usage_of(u.id, q.quota)::float8 as used
          from users u cross join unnest(${quotas as AccountQuota[]}::text[]) as q (quota) where u.id = ${userId}`),

    /** What decides the quotas of the owner of a team. */
    findOwnerOfTeam: async (tx: TransactionSql, teamId: string): Promise<Allowance | undefined> => {
      const [row] = await tx<Allowance[]>`
        select ${allowance(tx)} from team_members m join users u on u.id = m.user_id
         where m.team_id = ${teamId} and m.role = 'owner'`
      return row
    },
  }
}

export type QuotaStore = ReturnType<typeof createQuotaStore>
