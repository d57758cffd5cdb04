import type { Fragment, Sql } from '../platform/postgres.ts'

/** Enough to know that an address is shared. */
const countedAccounts = 2
/** The latest events of an operator, and for how many days they show where it works. */
const operatorEvents = 50
const operatorDays = 7

/** Who else is at an address. */
export type Standing = {
  /** Accounts with live sessions that were opened from it, up to two. */
  readonly accounts: number
  /** Whether an operator has a live session from there, or acted from there in the last days. */
  readonly operator: boolean
}

/**
 * The beginning of the addresses that limits count as this one. Of an IPv6 network it may fit a larger one too. Two groups of zeros
 * may be written as `::` in an address where they are not in its network.
 */
const startOf = (address: string): string =>
  address.endsWith('/64') ? address.replace(/:*\/64$/, ':').replace(/:0:0:.*$/, ':') : address

export const createAnomalyStore = (sql: Sql) => ({
  /** Who is at an address, as limits count it. Scans the sessions: call it seldom. */
  findStanding: async (address: string): Promise<Standing> => {
    const isNetwork = address.endsWith('/64')
    const isHere = (column: Fragment) =>
      sql`(${column} = ${address} or (${isNetwork} and starts_with(${column}, ${startOf(address)})))`
    const [row] = await sql<Standing[]>`
      with live as materialized (
        select distinct user_id from sessions
         where ended_at is null and least(idle_expires_at, expires_at) > now() and ${isHere(sql`address`)}
      ), operators as (
        select id from users where role = 'admin' and status = 'active'
      )
      select (select count(*)::int from (select from live limit ${countedAccounts}) found) as accounts,
             exists (select from live join operators on id = user_id)
               or exists (
                 select from operators o
                  cross join lateral (
                    select e.id, e.at from audit_events e
                     where e.actor_id = o.id and e.at > now() - ${operatorDays}::int * interval '1 day'
                     order by e.id desc limit ${operatorEvents}) recent
                  join audit_details d on d.event_id = recent.id and d.at = recent.at
                 where ${isHere(sql`(d.details::json ->> 'address')`)}) as operator`
    return row ?? { accounts: countedAccounts, operator: true }
  },
})
