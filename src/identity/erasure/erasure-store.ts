import type { Sql, TransactionSql } from '../../platform/postgres.ts'

/** Whether a closed account has more to erase after a batch. */
export type Erased = 'more' | 'nothing'

const maxGenerations = 200
const maxUploads = 500
const maxProjects = 10

/**
 * Erases what a closed account has left, in batches. Each call is one transaction, which takes the locks of sql/README.md in
 * their order.
 *
 * A project stays where others work in it: it is not private, and a team that still has a member has a grant on it. A generation
 * stays where its project stays, or is that of another person. What stays names no person: its owner is an account without a name.
 */
export const createErasureStore = (batch: Sql) => {
  /** A condition on `p`: the project is erased with its owner. */
  const erasedProject = (tx: TransactionSql, userId: string) => tx`
    p.owner_id = ${userId} and (p.visibility = 'private' or not exists (
      select from project_grants g join team_members m on m.team_id = g.team_id join users u on u.id = m.user_id
       where g.project_id = p.id and u.status <> 'deleted'))`

  const eraseGenerations = async (tx: TransactionSql, userId: string): Promise<number> => {
    const found = await tx<{ id: string; project_id: string | null }[]>`
      select g.id, g.project_id from generations g
       where g.owner_id = ${userId}
         and (g.project_id is null or exists (select from projects p where p.id = g.project_id and ${erasedProject(tx, userId)}))
       order by g.id limit ${maxGenerations}`
    if (found.length === 0) return 0
    const ids = found.map(({ id }) => id)
    const projects = found.flatMap(({ project_id }) => project_id ?? [])
    if (projects.length > 0) await tx`select share_project_access(${projects}::uuid[])`
    await tx`select from generations where id = any (${ids}::uuid[]) order by id for update`
    await tx`delete from generations where id = any (${ids}::uuid[])`
    return found.length
  }

  const eraseUploads = async (tx: TransactionSql, userId: string): Promise<number> => {
    const { count } = await tx`
      delete from media where id in (
        select id from media where generation_id is null and owner_id = ${userId} order by id limit ${maxUploads})`
    return count
  }

  /** Generations of other people in these projects stay, outside of any project. */
  const eraseProjects = async (tx: TransactionSql, userId: string): Promise<number> => {
    const found = await tx<{ id: string }[]>`
      select p.id from projects p where ${erasedProject(tx, userId)} order by p.id limit ${maxProjects}`
    if (found.length === 0) return 0
    const ids = found.map(({ id }) => id)
    await tx`select lock_projects_and_teams(${ids}::uuid[], '{}')`
    await tx`select from generations where project_id = any (${ids}::uuid[]) order by id for no key update`
    await tx`update generations set project_id = null, updated_at = now() where project_id = any (${ids}::uuid[])`
    await tx`delete from projects where id = any (${ids}::uuid[])`
    return found.length
  }

  return {
    /**
     * In the transaction that closes the account, last, with the account locked for update: no other transaction has rows that
     * refer to it. Erases the rows that only the account itself could see, and where it signed in; orders the rest to be erased.
     */
    begin: async (tx: TransactionSql, userId: string, at: Date): Promise<void> => {
      await tx`insert into account_erasures (user_id, requested_at) values (${userId}, ${at}) on conflict do nothing`
      await tx`delete from idempotency_keys where user_id = ${userId}`
      await tx`delete from generation_favorites where user_id = ${userId}`
      await tx`delete from audit_details where user_id = ${userId}`
      await tx`
        update sessions
           set user_agent = '', address = '', country = null, earlier_countries = null, network_hash = null, browser = null,
               platform = null, seen_country = null, seen_at = null
         where user_id = ${userId} and (user_agent <> '' or address <> '' or seen_at is not null)`
    },

    /** Closed accounts that are not erased yet, the oldest first. */
    listPending: async (limit: number): Promise<string[]> => {
      const rows = await batch<{ user_id: string }[]>`
        select user_id from account_erasures order by requested_at limit ${limit}`
      return rows.map(({ user_id }) => user_id)
    },

    /** Erases a batch. Nothing is left also where another instance is erasing the account. */
    erase: async (tx: TransactionSql, userId: string): Promise<Erased> => {
      const { count: locked } = await tx`
        select from account_erasures where user_id = ${userId} for update skip locked`
      if (locked === 0) return 'nothing'
      if ((await eraseGenerations(tx, userId)) > 0) return 'more'
      if ((await eraseUploads(tx, userId)) > 0) return 'more'
      if ((await eraseProjects(tx, userId)) > 0) return 'more'
      await tx`delete from share_links where created_by = ${userId}`
      await tx`delete from access_heat where user_id = ${userId}`
      await tx`delete from account_erasures where user_id = ${userId}`
      return 'nothing'
    },
  }
}

export type ErasureStore = ReturnType<typeof createErasureStore>
