import type { ListingStore, Place } from '../access/listing/listing-store.ts'
import type { GenerationStatus, Intent } from '../access/policy/matrix.ts'
import type { Deadline } from '../kit/deadline.ts'
import { type Fragment, onViolation, type Queryable, type Sql, type TransactionSql } from '../platform/postgres.ts'
import type { GenerationChanges } from './model.ts'

/** A generation as one person has it. */
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

/** How far one is: `progress` is of the attempt under way. */
export type GenerationState = Pick<GenerationRow, 'status' | 'progress'> & { readonly attempt: number }

export type AncestorRow = Pick<
  GenerationRow,
  'id' | 'owner_id' | 'project_id' | 'intent' | 'title' | 'status' | 'created_at'
> & { distance: number }

/** Undefined is no filter. */
export type GenerationFilter = Place & {
  projectId: string | undefined
  ownerId: string | undefined
  status: GenerationStatus | undefined
  intent: Intent | undefined
  model: string | undefined
  favorite: boolean
}

export const createGenerationStore = (sql: Sql, listing: Pick<ListingStore, 'readableGenerations'>) => {
  /** What it goes by is its owner's business: whoever may read a generation may not therefore know of the picture. */
  const columnsFor = (userId: string | Fragment) => sql`
    g.id, g.owner_id, g.project_id, g.title, g.intent, cardinality(g.ancestor_ids) as depth, g.model, g.prompt,
    g.negative_prompt, g.parameters, g.outputs, g.price, g.status, g.failure, g.created_at, g.updated_at, g.started_at,
    g.finished_at, case when g.owner_id = ${userId} then g.reference_media_id end as reference_media_id,
    coalesce((select round(j.progress::numeric, 3) from generation_jobs j where j.generation_id = g.id),
             case g.status when 'completed' then 1 else 0 end)::float8 as progress,
    exists (select from generation_favorites f where f.user_id = ${userId} and f.generation_id = g.id) as favorite`

  const narrow = (userId: string, { projectId, ownerId, status, intent, model, favorite }: GenerationFilter) => {
    const conditions = [
      projectId !== undefined && sql`and g.project_id = ${projectId}`,
      ownerId !== undefined && sql`and g.owner_id = ${ownerId}`,
      status !== undefined && sql`and g.status = ${status}`,
      intent !== undefined && sql`and g.intent = ${intent}`,
      model !== undefined && sql`and g.model = ${model}`,
      favorite && sql`and g.id in (select generation_id from generation_favorites where user_id = ${userId})`,
    ]
    return conditions.filter((condition) => condition !== false).reduce((all, next) => sql`${all} ${next}`, sql``)
  }

  return {
    find: async (
      deadline: Deadline,
      id: string,
      userId: string,
      on: Queryable = sql,
    ): Promise<GenerationRow | undefined> => {
      const [row] = await deadline.run(
        on<GenerationRow[]>`select ${columnsFor(userId)} from generations g where g.id = ${id}`,
      )
      return row
    },

    /** Generations as people have them, in the order asked; undefined for what is gone. Who may read them is not decided here. */
    findEach: async (
      deadline: Deadline,
      wanted: readonly { readonly id: string; readonly userId: string }[],
    ): Promise<(GenerationRow | undefined)[]> => {
      const rows = await deadline.run(sql<(GenerationRow & { place: number })[]>`
        select w.place::int, ${columnsFor(sql`w.user_id`)}
          from unnest(${wanted.map(({ id }) => id)}::uuid[], ${wanted.map(({ userId }) => userId)}::uuid[])
               with ordinality as w (id, user_id, place)
          join generations g on g.id = w.id`)
      const byPlace = new Map(rows.map(({ place, ...row }) => [place - 1, row]))
      return wanted.map((_, place) => byPlace.get(place))
    },

    /** How far generations are, found by their keys; what is gone is left out. */
    findStates: async (deadline: Deadline, ids: readonly string[]): Promise<Map<string, GenerationState>> => {
      const rows = await deadline.run(sql<(GenerationState & { id: string })[]>`
        select g.id, g.status, coalesce(j.attempt, 0) as attempt, coalesce(j.progress, 0)::float8 as progress
          from generations g left join generation_jobs j on j.generation_id = g.id
         where g.id = any (${ids as string[]}::uuid[])`)
      return new Map(rows.map(({ id, ...state }) => [id, state]))
    },

    /**
     * The generations a user may read, newest first, in one statement. One row more than `limit`. The page is cut before
     * it is joined, or Postgres may walk the whole table for it.
     */
    list: (deadline: Deadline, userId: string, filter: GenerationFilter): Promise<GenerationRow[]> =>
      deadline.run(sql<GenerationRow[]>`
        select ${columnsFor(userId)}
          from (select id from ${listing.readableGenerations(userId, filter, narrow(userId, filter))} readable
                 order by id desc limit ${filter.limit + 1}) page
          join generations g on g.id = page.id
         order by g.id desc`),

    /**
     * The ancestors of a generation that are still there, nearest first, and how many it was made with; undefined when
     * it is gone itself. Who may read them is not decided here.
     */
    findAncestors: async (
      deadline: Deadline,
      id: string,
    ): Promise<{ depth: number; ancestors: AncestorRow[] } | undefined> => {
      const rows = await deadline.run(sql<({ depth: number } & (AncestorRow | { id: null }))[]>`
        select cardinality(g.ancestor_ids) as depth, a.id, a.owner_id, a.project_id, a.intent, a.title, a.status,
               a.created_at, named.distance::int
          from generations g
          left join lateral unnest(g.ancestor_ids) with ordinality as named (id, distance) on true
          left join generations a on a.id = named.id
         where g.id = ${id} order by named.distance`)
      const [first] = rows
      return first && { depth: first.depth, ancestors: rows.filter((row) => row.id !== null) }
    },

    /** Whether a project is there; until the end of the transaction it cannot go. */
    keepProject: async (tx: TransactionSql, id: string): Promise<boolean> => {
      const { count } = await tx`select from projects where id = ${id} for key share`
      return count === 1
    },

    /** The ancestors of a generation, or undefined when it is gone; until the end of the transaction it cannot go. */
    keepParent: async (tx: TransactionSql, id: string): Promise<string[] | undefined> => {
      const [row] = await tx<{ ancestor_ids: string[] }[]>`
        select ancestor_ids from generations where id = ${id} for key share`
      return row?.ancestor_ids
    },

    /** What the bytes of a picture are called, or undefined when it is gone; until the end of the transaction it cannot go. */
    keepReference: async (tx: TransactionSql, mediaId: string): Promise<string | undefined> => {
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
        returning ${columnsFor(row.owner_id)}`
      return inserted as GenerationRow
    },

    /** Locks a generation, so that it stays where it is; children can still be made of it. Returns whether there is one. */
    lock: async (tx: TransactionSql, id: string): Promise<boolean> => {
      const { count } = await tx`select from generations where id = ${id} for no key update`
      return count === 1
    },

    /** Locks up to `limit` of a person that are not over yet, all in one order. */
    lockUnfinished: async (tx: TransactionSql, ownerId: string, limit: number): Promise<string[]> => {
      const found = await tx<{ id: string }[]>`
        select id from generations
         where owner_id = ${ownerId} and status in ('queued', 'processing') order by id limit ${limit} for no key update`
      return found.map(({ id }) => id)
    },

    /** Says what came of one. Lock it first. */
    finish: async (
      tx: TransactionSql,
      id: string,
      outcome: { status: 'completed' | 'cancelled' } | { status: 'failed'; failure: string },
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
        update generations g set ${tx(changes)}, updated_at = now() where g.id = ${id} returning ${columnsFor(userId)}`
      return row as GenerationRow
    },

    /** Whatever it was before; a generation that goes meanwhile is a fault. */
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
  }
}

export type GenerationStore = ReturnType<typeof createGenerationStore>
