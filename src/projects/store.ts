import type { Visibility } from '../access/model.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { ProjectChanges } from './model.ts'

export type ProjectRow = {
  id: string
  owner_id: string
  name: string
  description: string
  visibility: Visibility
  created_at: Date
  updated_at: Date
}

export type ProjectFilter = { ownerId: string | null; after: string | null; limit: number }

export const createProjectStore = (sql: Sql) => ({
  find: async (deadline: Deadline, id: string): Promise<ProjectRow | undefined> => {
    const [row] = await deadline.run(sql<ProjectRow[]>`select * from projects where id = ${id}`)
    return row
  },

  /** The projects a user may read, newest first: the read rule of access/decide as SQL. One row more than `limit`. */
  list: (deadline: Deadline, userId: string, { ownerId, after, limit }: ProjectFilter): Promise<ProjectRow[]> =>
    deadline.run(sql<ProjectRow[]>`
      select * from projects
       where (owner_id = ${userId} or visibility = 'public')
         and (${ownerId}::uuid is null or owner_id = ${ownerId}::uuid)
         and (${after}::uuid is null or id < ${after}::uuid)
       order by id desc limit ${limit + 1}`),

  insert: async (
    tx: TransactionSql,
    project: Pick<ProjectRow, 'id' | 'owner_id' | 'name' | 'description' | 'visibility'>,
  ): Promise<ProjectRow> => {
    const [row] = await tx<ProjectRow[]>`insert into projects ${tx(project)} returning *`
    return row as ProjectRow
  },

  update: async (tx: TransactionSql, id: string, changes: ProjectChanges): Promise<ProjectRow | undefined> => {
    const [row] = await tx<ProjectRow[]>`
      update projects set ${tx(changes)}, updated_at = now() where id = ${id} returning *`
    return row
  },

  /** Its generations stay, and belong to their owners alone. Returns the ids of those, or undefined if nothing was there. */
  remove: async (tx: TransactionSql, id: string): Promise<string[] | undefined> => {
    const [locked] = await tx`select id from projects where id = ${id} for update`
    if (locked === undefined) return undefined
    const orphans = await tx<{ id: string }[]>`
      update generations set project_id = null, updated_at = now() where project_id = ${id} returning id`
    await tx`delete from projects where id = ${id}`
    return orphans.map((orphan) => orphan.id)
  },
})

export type ProjectStore = ReturnType<typeof createProjectStore>
