import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { Generation } from './model.ts'

export type GenerationRow = {
  id: string
  owner_id: string
  project_id: string | null
  model: string
  prompt: string
  status: Generation['status']
  created_at: Date
  updated_at: Date
}

export type GenerationFilter = { projectId: string | null; after: string | null; limit: number }

export const createGenerationStore = (sql: Sql) => ({
  find: async (deadline: Deadline, id: string): Promise<GenerationRow | undefined> => {
    const [row] = await deadline.run(sql<GenerationRow[]>`select * from generations where id = ${id}`)
    return row
  },

  /** The generations a user may read, newest first: the read rule of access/decide as SQL. One row more than `limit`. */
  list: (deadline: Deadline, userId: string, { projectId, after, limit }: GenerationFilter): Promise<GenerationRow[]> =>
    deadline.run(sql<GenerationRow[]>`
      select g.* from generations g
       where (g.owner_id = ${userId} or exists (
               select from projects p
                where p.id = g.project_id and (p.owner_id = ${userId} or p.visibility = 'public')))
         and (${projectId}::uuid is null or g.project_id = ${projectId}::uuid)
         and (${after}::uuid is null or g.id < ${after}::uuid)
       order by g.id desc limit ${limit + 1}`),

  /** Nothing is made, and undefined returned, when the project is gone; while it is made the project cannot go. */
  insert: async (
    tx: TransactionSql,
    row: Pick<GenerationRow, 'id' | 'owner_id' | 'project_id' | 'model' | 'prompt'>,
  ): Promise<GenerationRow | undefined> => {
    if (row.project_id !== null) {
      const [project] = await tx`select id from projects where id = ${row.project_id} for key share`
      if (project === undefined) return undefined
    }
    const [inserted] = await tx<GenerationRow[]>`insert into generations ${tx(row)} returning *`
    return inserted
  },

  remove: async (tx: TransactionSql, id: string): Promise<boolean> => {
    const { count } = await tx`delete from generations where id = ${id}`
    return count === 1
  },
})

export type GenerationStore = ReturnType<typeof createGenerationStore>
