import type { LimitMode } from '../config.ts'
import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Policy, type Quota, quotaOf } from './policy.ts'
import type { AccountQuota, Allowance, QuotaStore, UsageRow } from './quota-store.ts'

/** How much a change adds to what an account holds. */
export type Addition = Readonly<Partial<Record<Exclude<AccountQuota, 'sessions'>, number>>>

const accountQuotas = ['stored_bytes', 'projects', 'teams', 'sessions', 'jobs_under_way'] as const
/** A sign-in beyond the quota of sessions is not refused: it ends another session. */
type RefusingQuota = Exclude<Quota, 'sessions'>

/** Throws the fault of a quota, with its figures. */
type Refusal = (figures: { readonly limit: number; readonly used: number; readonly added: number }) => Fault

const refusals: Readonly<Record<RefusingQuota, Refusal>> = {
  stored_bytes: ({ limit, used, added }) =>
    new Fault('quota.stored_bytes', { extensions: { limit, used, needed: added } }),
  projects: ({ limit, used }) => new Fault('quota.projects', { extensions: { limit, used } }),
  teams: ({ limit, used }) => new Fault('quota.teams', { extensions: { limit, used } }),
  team_members: ({ limit, used }) => new Fault('quota.team_members', { extensions: { limit, used } }),
  jobs_under_way: ({ limit, used }) => new Fault('quota.jobs_under_way', { extensions: { limit, used } }),
}

/**
 * Quotas: how much an account may hold, by its plan or by figures that an operator set.
 *
 * Guarantee: of concurrent changes that add to what one account holds, exactly those are accepted that fit. An account that
 * holds more already, because its quota was lowered or is new, keeps it and cannot add to it. A change that gives back
 * counts from its commit on.
 * With the mode `monitor` a change that does not fit is logged and accepted; with `off` nothing is counted.
 */
export const createQuotas = ({
  store,
  policy,
  mode,
  log,
}: {
  store: QuotaStore
  policy: Policy
  mode: LimitMode
  log: Log
}) => {
  const limitOf = (quota: Quota, { plan, limits }: Allowance) => quotaOf(policy, quota, plan, limits)

  const requireFit = (
    quota: RefusingQuota,
    figures: { limit: number; used: number; added: number },
    about: Readonly<Record<string, string>>,
    refusal = refusals[quota],
  ): void => {
    if (figures.used + figures.added <= figures.limit) return
    if (mode === 'on') throw refusal(figures)
    log.info({ event: 'quota.exceeded', quota, ...figures, ...about }, 'a change beyond a quota was accepted')
  }

  const requireAll = (rows: readonly UsageRow[], addition: Addition, userId: string, refusal?: Refusal): void => {
    for (const row of rows) {
      const { quota, used } = row
      if (quota === 'sessions') continue
      const figures = { limit: limitOf(quota, row), used, added: addition[quota] ?? 0 }
      requireFit(quota, figures, { user_id: userId }, refusal)
    }
  }

  const namesOf = (addition: Addition) => Object.keys(addition) as AccountQuota[]

  return {
    /**
     * Locks what the account holds until the transaction ends, and requires that the addition fits. Throws `quota.…`, or the
     * fault of `refusal`. Call it after the locks of all other rows but jobs and balances.
     */
    require: async (tx: TransactionSql, userId: string, addition: Addition, refusal?: Refusal): Promise<void> => {
      if (mode === 'off') return
      requireAll(await store.lockUsage(tx, userId, namesOf(addition)), addition, userId, refusal)
    },

    /** As `require`, without a lock: refuses early what `require` would refuse later. */
    requireSoFar: async (deadline: Deadline, userId: string, addition: Addition): Promise<void> => {
      if (mode === 'off') return
      requireAll(await store.findUsage(deadline, userId, namesOf(addition)), addition, userId)
    },

    /** Requires that a team may get one more member, by the quota of its owner. The caller has locked the team. */
    requireTeamRoom: async (tx: TransactionSql, teamId: string, members: number): Promise<void> => {
      if (mode === 'off') return
      const owner = await store.findOwnerOfTeam(tx, teamId)
      if (owner === undefined) return
      requireFit(
        'team_members',
        { limit: limitOf('team_members', owner), used: members, added: 1 },
        { team_id: teamId },
      )
    },

    /** How many live sessions an account may have; undefined where that is not limited. */
    maxSessions: (account: Allowance): number | undefined => (mode === 'on' ? limitOf('sessions', account) : undefined),

    /** Every quota of an account, and how much of it is used. Throws `user.not_found`. */
    list: async (deadline: Deadline, userId: string) => {
      const rows = await store.findUsage(deadline, userId, accountQuotas)
      const figuresOf = (quota: AccountQuota) => {
        const row = rows.find((each) => each.quota === quota)
        if (row === undefined) throw new Fault('user.not_found')
        return { limit: limitOf(quota, row), used: row.used }
      }
      const [account = { plan: 'free', limits: null }] = rows
      return {
        stored_bytes: figuresOf('stored_bytes'),
        projects: figuresOf('projects'),
        teams: figuresOf('teams'),
        team_members: { limit: limitOf('team_members', account) },
        sessions: figuresOf('sessions'),
        jobs_under_way: figuresOf('jobs_under_way'),
      }
    },
  }
}

export type Quotas = ReturnType<typeof createQuotas>
