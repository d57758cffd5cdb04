import { defaultPolicy, maxBudget, type Policy, type Quota } from '../../src/limits/policy.ts'
import { connectOnce, type TransactionSql } from '../../src/platform/postgres.ts'
import type { TestConnection } from '../harness.ts'

const everyPlan = (figure: number) => ({ free: figure, pro: figure, enterprise: figure })

/** These quotas for every plan, and budgets that are never used up. */
export const withQuotas = (quotas: Readonly<Record<Quota, number>>): Policy =>
  ({
    budgets: Object.fromEntries(
      Object.entries(defaultPolicy.budgets).map(([name, figure]) => [
        name,
        typeof figure === 'number' ? maxBudget : everyPlan(maxBudget),
      ]),
    ),
    quotas: Object.fromEntries(Object.entries(quotas).map(([name, figure]) => [name, everyPlan(figure)])),
  }) as Policy

/** Polls until the condition holds, and throws after `withinMs`. Resolves to the time it took. */
export const until = async (
  isSo: () => Promise<boolean> | boolean,
  what: string,
  withinMs = 50_000,
): Promise<number> => {
  const startedMs = performance.now()
  while (!(await isSo())) {
    if (performance.now() - startedMs > withinMs) throw new Error(`Not within ${withinMs} ms: ${what}`)
    await Bun.sleep(10)
  }
  return performance.now() - startedMs
}

/** Keeps the locks that `lock` takes until `release`, which can make a change before it commits. */
export const hold = async (connection: TestConnection, lock: (tx: TransactionSql) => PromiseLike<unknown>) => {
  const sql = connectOnce(connection)
  const held = Promise.withResolvers<void>()
  const release = Promise.withResolvers<(tx: TransactionSql) => PromiseLike<unknown>>()
  const transaction = sql.begin(async (tx) => {
    await lock(tx)
    held.resolve()
    const change = await release.promise
    await change(tx)
  })
  transaction.catch(held.reject)
  await held.promise
  return {
    /** Resolves once `count` statements wait for a lock. */
    waiting: async (count: number) => {
      const watcher = connectOnce(connection)
      const areWaiting = async () => {
        const [row] = await watcher<{ waiting: number }[]>`
          select count(*)::int as waiting from pg_stat_activity
           where datname = ${connection.database} and wait_event_type = 'Lock'`
        return (row?.waiting ?? 0) >= count
      }
      return until(areWaiting, `${count} statements waiting for a lock`).finally(() => watcher.end())
    },
    release: async (change: (tx: TransactionSql) => PromiseLike<unknown> = async () => {}) => {
      release.resolve(change)
      await transaction.catch(() => {})
      await sql.end()
    },
  }
}

/** Locks the row of a user, so that every request that changes it waits and stays under way until `release`. */
export const holdUser = (connection: TestConnection, userId: string) =>
  hold(connection, (tx) => tx`select from users where id = ${userId} for update`)

/** Like `holdUser`, for the sessions of a user. */
export const holdSessions = (connection: TestConnection, userId: string) =>
  hold(connection, (tx) => tx`select from sessions where user_id = ${userId} for update`)

/** Like `holdUser`, for the balance of a user: every reservation and refund waits. */
export const holdBalance = (connection: TestConnection, userId: string) =>
  hold(connection, (tx) => tx`select from credit_balances where user_id = ${userId} for update`)

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
