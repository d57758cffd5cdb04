import type { Sql } from '../platform/postgres.ts'

/** Enough to know that an address is shared. */
const countedAccounts = 2

/** The beginning of the addresses that limits count as this one. Of an IPv6 network it may fit a larger one too. */
const startOf = (address: string): string => (address.endsWith('/64') ? address.replace(/:*\/64$/, ':') : address)

export const createAnomalyStore = (sql: Sql) => ({
  /** How many accounts have live sessions that were opened from the address, up to two. Scans the sessions: call it seldom. */
  countAccountsAt: async (address: string): Promise<number> => {
    const isNetwork = address.endsWith('/64')
    const [row] = await sql<{ accounts: number }[]>`
      select count(*)::int as accounts
      from (
        select distinct user_id
        from sessions
        where ended_at is null and least(idle_expires_at, expires_at) > now()
          and (address = ${address} or (${isNetwork} and starts_with(address, ${startOf(address)})))
        limit ${countedAccounts}
      ) found`
    return row?.accounts ?? 0
  },
})
