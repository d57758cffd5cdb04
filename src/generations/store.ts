import type { ListingStore, Place } from '../access/listing/listing-store.ts'
import type { GenerationStatus, Intent } from '../access/policy/matrix.ts'
import type { Deadline } from '../kit/deadline.ts'
import { type Fragment, onViolation, type Queryable, type Sql, type TransactionSql } from '../platform/postgres.ts'
import type { GenerationChanges } from './model.ts'

/** A generation as one user sees it: `favorite` and `reference_media_id` depend on the user. */
export type GenerationRow = {
  id: string
  owner_id: string
  project_id: string | null
  title: string
  intent: Intent
  depth: number
  model: string
  prompt: string
  negative_prompt: string
  parameters: Readonly<Record<string, string | number | boolean>>
  reference_media_id: string | null
  outputs: number
  price: number
  status: GenerationStatus
  progress: number
  failure: string | null
  failure_detail: string | null
  favorite: boolean
  created_at: Date
  updated_at: Date
  started_at: Date | null
  finished_at: Date | null
}

export type NewGenerationRow = Pick<
  GenerationRow,
  | 'id'
  | 'owner_id'
  | 'project_id'
  | 'title'
  | 'intent'
  | 'model'
  | 'prompt'
  | 'negative_prompt'
  | 'parameters'
  | 'reference_media_id'
  | 'outputs'
  | 'price'
> & { ancestor_ids: readonly string[] }

/** `progress` is that of the current attempt, from 0 to 1. */
export type GenerationState = Pick<GenerationRow, 'status' | 'progress'> & { readonly attempt: number }

export type AncestorRow = Pick<
  GenerationRow,
  'id' | 'owner_id' | 'project_id' | 'intent' | 'title' | 'status' | 'created_at'
> & { distance: number }

/** An undefined filter matches everything. */
export type GenerationFilter = Place & {
  projectId: string | undefined
  ownerId: string | undefined
  status: GenerationStatus | undefined
  intent: Intent | undefined
  model: string | undefined
  favorite: boolean
}

/**
 * Only the owner gets `reference_media_id`: the right to read a generation does not include the right to see its
 * reference.
 */
const columnsFor = (sql: Sql, userId: string | Fragment) => sql`
  g.id, g.owner_id, g.project_id, g.title, g.intent, cardinality(g.ancestor_ids) as depth, g.model, g.prompt,
  g.negative_prompt, g.parameters, g.outputs, g.price, g.status, g.failure, g.failure_detail, g.created_at,
  g.updated_at, g.started_at, g.finished_at, case when g.owner_id = ${userId} then g.reference_media_id end as reference_media_id,
  coalesce((select round(j.progress::numeric, 3) from generation_jobs j where j.generation_id = g.id),
           case g.status when 'completed' then 1 else 0 end)::float8 as progress,
  exists (select from generation_favorites f where f.user_id = ${userId} and f.generation_id = g.id) as favorite`

/** The condition that the filters make of columns of `g`; undefined without any. */
const toCondition = (
  sql: Sql,
  { projectId, ownerId, status, intent, model, favorite }: GenerationFilter,
): Fragment | undefined => {
  const conditions = [
    projectId !== undefined && sql`and g.project_id = ${projectId}`,
    ownerId !== undefined && sql`and g.owner_id = ${ownerId}`,
    status !== undefined && sql`and g.status = ${status}`,
    intent !== undefined && sql`and g.intent = ${intent}`,
    model !== undefined && sql`and g.model = ${model}`,
    // The list of favorites is itself read from them.
    favorite && sql``,
  ].filter((condition) => condition !== false)
  return conditions.length === 0 ? undefined : conditions.reduce((all, next) => sql`${all} ${next}`)
}

const createReads = (sql: Sql, listing: Pick<ListingStore, 'readableGenerations'>) => ({
  find: async (
    deadline: Deadline,
    id: string,
    userId: string,
    on: Queryable = sql,
  ): Promise<GenerationRow | undefined> => {
    const [row] = await deadline.run(
      on<GenerationRow[]>`select ${columnsFor(sql, userId)} from generations g where g.id = ${id}`,
    )
    return row
  },

  /**
   * Generations as these users see them, in the order of `queries`; undefined for deleted ones. One statement. Does not
   * decide who may read them.
   */
  findEach: async (
    deadline: Deadline,
    queries: readonly { readonly id: string; readonly userId: string }[],
  ): Promise<(GenerationRow | undefined)[]> => {
    const rows = await deadline.run(sql<(GenerationRow & { index: number })[]>`
      select q.index::int, ${columnsFor(sql, sql`q.user_id`)}
        from unnest(${queries.map(({ id }) => id)}::uuid[], ${queries.map(({ userId }) => userId)}::uuid[])
             with ordinality as q (id, user_id, index)
        join generations g on g.id = q.id`)
    const byIndex = new Map(rows.map(({ index, ...row }) => [index - 1, row]))
    return queries.map((_, index) => byIndex.get(index))
  },

  /** The states of generations in one snapshot; deleted ones are absent. Cost: index lookups by primary key. */
  findStates: async (deadline: Deadline, ids: readonly string[]): Promise<Map<string, GenerationState>> => {
    const rows = await deadline.run(sql<(GenerationState & { id: string })[]>`
      select g.id, g.status, coalesce(j.attempt, 0) as attempt, coalesce(j.progress, 0)::float8 as progress
        from generations g left join generation_jobs j on j.generation_id = g.id
       where g.id = any (${ids as string[]}::uuid[])`)
    return new Map(rows.map(({ id, ...state }) => [id, state]))
  },

  /**
   * The generations a user may read, newest first, in one statement and so in one snapshot. Returns one row more than
   * `limit`. The rows are looked up by the ids of the page one by one, which the planner cannot turn into a join.
   */
  list: (deadline: Deadline, userId: string, filter: GenerationFilter): Promise<GenerationRow[]> =>
    deadline.run(sql<GenerationRow[]>`
      select shown.*
        from (select readable.id
                from ${listing.readableGenerations(userId, filter, filter, toCondition(sql, filter))} readable (id)
               order by readable.id desc limit ${filter.limit + 1}) page
       cross join lateral (select ${columnsFor(sql, userId)} from generations g where g.id = page.id limit 1) shown
       order by page.id desc`),

  /**
   * The ancestors of a generation that still exist, nearest first, and the number it was created with; undefined when
   * the generation does not exist. Does not decide who may read them.
   */
  findAncestors: async (
    deadline: Deadline,
    id: string,
  ): Promise<{ depth: number; ancestors: AncestorRow[] } | undefined> => {
    const rows = await deadline.run(sql<({ depth: number } & (AncestorRow | { id: null }))[]>`
      select cardinality(g.ancestor_ids) as depth, a.id, a.owner_id, a.project_id, a.intent, a.title, a.status,
             a.created_at, lineage.distance::int
        from generations g
        left join lateral unnest(g.ancestor_ids) with ordinality as lineage (id, distance) on true
        left join generations a on a.id = lineage.id
       where g.id = ${id} order by lineage.distance`)
    const [first] = rows
    return first && { depth: first.depth, ancestors: rows.filter((row) => row.id !== null) }
  },
})

const createWrites = (sql: Sql) => ({
  /** The ancestors of a generation, nearest first; undefined: it does not exist. */
  findAncestorIds: async (tx: TransactionSql, id: string): Promise<string[] | undefined> => {
    const [row] = await tx<{ ancestor_ids: string[] }[]>`select ancestor_ids from generations where id = ${id}`
    return row?.ancestor_ids
  },

  /**
   * Locks a reference picture for key share: it cannot be deleted until the end of the transaction. Returns its SHA-256;
   * undefined: it does not exist.
   */
  lockReferenceForKeyShare: async (tx: TransactionSql, mediaId: string): Promise<string | undefined> => {
    const [row] = await tx<{ sha256: string }[]>`select sha256 from media where id = ${mediaId} for key share`
    return row?.sha256
  },

  insert: async (tx: TransactionSql, row: NewGenerationRow): Promise<GenerationRow> => {
    const [inserted] = await tx<GenerationRow[]>`
      insert into generations as g (id, owner_id, project_id, title, intent, ancestor_ids, model, prompt, negative_prompt,
                                    parameters, reference_media_id, outputs, price)
      values (${row.id}, ${row.owner_id}, ${row.project_id}, ${row.title}, ${row.intent}, ${row.ancestor_ids}::uuid[],
              ${row.model}, ${row.prompt}, ${row.negative_prompt}, ${tx.json(row.parameters)}, ${row.reference_media_id},
              ${row.outputs}, ${row.price})
      returning ${columnsFor(sql, row.owner_id)}`
    return inserted as GenerationRow
  },

  /**
   * Locks a generation for no key update: its project and status stay, while children can still be created. False: it
   * does not exist.
   */
  lockForNoKeyUpdate: async (tx: TransactionSql, id: string): Promise<boolean> => {
    const { count } = await tx`select from generations where id = ${id} for no key update`
    return count === 1
  },

  /** Locks up to `limit` generations of a user that have not ended, in order of id, so that two callers cannot deadlock. */
  lockUnfinishedForNoKeyUpdate: async (tx: TransactionSql, ownerId: string, limit: number): Promise<string[]> => {
    const found = await tx<{ id: string }[]>`
      select id from generations
       where owner_id = ${ownerId} and status in ('queued', 'processing') order by id limit ${limit} for no key update`
    return found.map(({ id }) => id)
  },

  /** Stores how a generation ended. The caller has locked it. */
  finish: async (
    tx: TransactionSql,
    id: string,
    outcome:
      | { status: 'completed' | 'cancelled' }
      | { status: 'failed'; failure: string; failure_detail?: string | null },
  ): Promise<void> => {
    await tx`
      update generations set ${tx(outcome)}, finished_at = clock_timestamp(), updated_at = clock_timestamp()
       where id = ${id}`
  },

  update: async (
    tx: TransactionSql,
    id: string,
    changes: GenerationChanges,
    userId: string,
  ): Promise<GenerationRow> => {
    const [row] = await tx<GenerationRow[]>`
      update generations g set ${tx(changes)}, updated_at = now() where g.id = ${id} returning ${columnsFor(sql, userId)}`
    return row as GenerationRow
  },

  /** Idempotent. Throws `generation.not_found` when the generation is deleted concurrently. */
  setFavorite: async (tx: TransactionSql, id: string, userId: string, favorite: boolean): Promise<void> => {
    if (!favorite) {
      await tx`delete from generation_favorites where user_id = ${userId} and generation_id = ${id}`
      return
    }
    await tx`
      insert into generation_favorites (user_id, generation_id) values (${userId}, ${id}) on conflict do nothing
      `.catch(onViolation('generation_favorites__generation_id', 'generation.not_found'))
  },

  remove: async (tx: TransactionSql, id: string): Promise<void> => {
    await tx`delete from generations where id = ${id}`
  },
})

export const createGenerationStore = (sql: Sql, listing: Pick<ListingStore, 'readableGenerations'>) => ({
  ...createReads(sql, listing),
  ...createWrites(sql),
})

export type GenerationStore = ReturnType<typeof createGenerationStore>
