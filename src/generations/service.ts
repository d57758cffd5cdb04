import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import type { TransactionalAccess } from '../access/transactional-access.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Idempotency, Replayable } from '../idempotency/idempotency.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import {
  type Favorite,
  type Generation,
  type GenerationChanges,
  maxDepth,
  type NewGeneration,
  type Provenance,
} from './model.ts'
import type { AncestorRow, GenerationFilter, GenerationRow, GenerationStore } from './store.ts'

export const toGeneration = (row: GenerationRow): Generation => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  title: row.title,
  intent: row.intent,
  depth: row.depth,
  model: row.model,
  prompt: row.prompt,
  negative_prompt: row.negative_prompt,
  parameters: row.parameters,
  reference_media_id: row.reference_media_id,
  outputs: row.outputs,
  price: row.price,
  status: row.status,
  progress: row.progress,
  failure: row.failure as Generation['failure'],
  favorite: row.favorite,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
  started_at: row.started_at?.toISOString() ?? null,
  finished_at: row.finished_at?.toISOString() ?? null,
})

const toAncestor = (row: AncestorRow): Provenance['items'][number] => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  intent: row.intent,
  title: row.title,
  status: row.status,
  created_at: row.created_at.toISOString(),
  distance: row.distance,
})

const found = <T>(thing: T | undefined): T => {
  // Decided on a moment ago, gone now.
  if (thing === undefined) throw new Fault('generation.not_found')
  return thing
}

const refOf = (id: string): ResourceRef => ({ type: 'generation', id })
const projectOf = (id: string): ResourceRef => ({ type: 'project', id })

const invalid = (pointer: string, detail: string) =>
  new Fault('request.invalid', { problems: [{ in: 'body', pointer, detail }] })

/** A parent and an intent that is about one go together. */
const checkLineage = ({ parent_id, intent = 'original' }: NewGeneration): void => {
  if (parent_id === undefined && intent !== 'original') throw invalid('/parent_id', 'This intent needs a parent')
  if (parent_id !== undefined && intent === 'original') throw invalid('/intent', 'A child is not an original')
}

const cancelledAtOnce = 100

type ParameterValue = string | number | boolean

/** What a model takes and what it costs, whole. */
type Order = {
  readonly model: { readonly parameters: Readonly<Record<string, unknown>> }
  readonly parameters: Readonly<Record<string, ParameterValue>>
  readonly outputs: number
  readonly price: number
}

type Dependencies = {
  readonly store: GenerationStore
  readonly access: Access
  readonly transactionalAccess: TransactionalAccess
  readonly changes: Changes
  readonly idempotency: Pick<Idempotency, 'once'>
  readonly models: {
    /** Throws a fault for input that the model does not accept. */
    readonly order: (
      input: Pick<NewGeneration, 'model' | 'outputs' | 'parameters' | 'negative_prompt' | 'reference_media_id'>,
    ) => Order
  }
  readonly media: {
    /** Throws a fault where the caller may not make derivatives of a picture. */
    readonly requireReference: (context: RequestContext, caller: Caller, mediaId: string) => Promise<void>
  }
  readonly credits: {
    /** Locks the balance until the end of the transaction, so it goes last. Throws `credits.insufficient`. */
    readonly reserve: (tx: TransactionSql, userId: string, generationId: string, price: number) => Promise<void>
    readonly refund: (tx: TransactionSql, generationId: string) => Promise<boolean>
  }
  readonly jobs: {
    /** The bytes of the reference are kept until the job ends. */
    readonly enqueue: (tx: TransactionSql, generationId: string, referenceSha256: string | null) => Promise<void>
    /** False: the generation has ended, there is no job. */
    readonly cancel: (tx: TransactionSql, generationId: string) => Promise<boolean>
  }
  /** The seed of a generation that was ordered without one. */
  readonly newSeed: () => number
}

/**
 * Generations, from the order to the final state. The route has authorized its own action; moving, cancelling and removing
 * are decided again here, under the lock of the generation.
 *
 * Guarantee: order, price and job are accepted in one transaction or not at all. A cancelled or removed generation that
 * had not ended is refunded once.
 */
export const createGenerations = ({
  store,
  access,
  transactionalAccess,
  changes,
  idempotency,
  models,
  media,
  credits,
  jobs,
  newSeed,
}: Dependencies) => ({
  /**
   * The project, the parent and the reference it was asked for are there when it is made, or nothing is made. Whoever
   * asks again with the key is told what was made, also when they are there no more.
   */
  create: async (
    context: RequestContext,
    caller: Caller,
    input: NewGeneration,
    key?: string,
  ): Promise<Replayable<Generation>> => {
    const { project_id = null, parent_id, reference_media_id = null, model, prompt } = input
    const { negative_prompt = '', title = '', intent = 'original' } = input
    const check = async (): Promise<Order> => {
      checkLineage(input)
      const ordered = models.order(input)
      if (project_id !== null) await access.require(caller, 'create', projectOf(project_id), context.deadline)
      if (parent_id !== undefined) await access.requireDerivation(caller, parent_id, context.deadline)
      if (reference_media_id !== null) await media.requireReference(context, caller, reference_media_id)
      return ordered
    }
    const request = { userId: caller.userId, route: 'POST /api/v1/generations', key, body: input }
    const accept = async (tx: TransactionSql, ordered: Order) => {
      if (project_id !== null && !(await store.keepProject(tx, project_id))) throw new Fault('project.not_found')
      const ancestor_ids = parent_id === undefined ? [] : [parent_id, ...found(await store.keepParent(tx, parent_id))]
      if (ancestor_ids.length > maxDepth) {
        throw new Fault('generation.too_deep', { extensions: { max_depth: maxDepth } })
      }
      const reference = reference_media_id === null ? null : await store.keepReference(tx, reference_media_id)
      if (reference === undefined) throw new Fault('media.not_found')
      const { outputs, price } = ordered
      const takesSeed = Object.hasOwn(ordered.model.parameters, 'seed')
      const row = await store.insert(tx, {
        id: newId(),
        owner_id: caller.userId,
        project_id,
        title,
        intent,
        ancestor_ids,
        model,
        prompt,
        negative_prompt,
        // Chosen now, so that every attempt makes the same, and so may whoever sees it.
        parameters: { ...(takesSeed && { seed: newSeed() }), ...ordered.parameters },
        reference_media_id,
        outputs,
        price,
      })
      await jobs.enqueue(tx, row.id, reference)
      await credits.reserve(tx, caller.userId, row.id, price)
      return { status: 201, body: toGeneration(row) }
    }
    const checked = check()
    // What was answered to a key stands, whatever has become of what was asked for: only the first request is refused.
    await (key === undefined ? checked : Promise.allSettled([checked]))
    return changes.commitAndInvalidate(
      context.deadline,
      (tx) => idempotency.once(tx, request, async () => accept(tx, await checked)),
      {
        grantsOnly: true,
      },
    )
  },

  get: async (context: RequestContext, caller: Caller, id: string): Promise<Generation> =>
    toGeneration(found(await store.find(context.deadline, id, caller.userId))),

  list: async (context: RequestContext, caller: Caller, filter: GenerationFilter) => {
    const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, filter), filter.limit)
    return { items: items.map(toGeneration), next_cursor }
  },

  /** A chain is as long for everyone; each ancestor is shown or counted as the caller may read it, and nothing else. */
  provenance: async (context: RequestContext, caller: Caller, id: string): Promise<Provenance> => {
    const { depth, ancestors } = found(await store.findAncestors(context.deadline, id))
    const decisions = await access.decideMany(
      ancestors.map((ancestor) => ({ userId: caller.userId, action: 'read', resource: refOf(ancestor.id) })),
      context.deadline,
    )
    const items = ancestors.filter((_, index) => decisions[index]?.allowed).map(toAncestor)
    return { items, hidden: depth - items.length }
  },

  /** A new title is written; a move takes it from where it is, which needs `delete`, to where one may `create`. */
  update: (context: RequestContext, caller: Caller, id: string, input: GenerationChanges): Promise<Generation> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lock(tx, id))) throw new Fault('generation.not_found')
      const inside = transactionalAccess(tx)
      if (input.title !== undefined) await inside.require(caller, 'write', refOf(id), context.deadline)
      if (input.project_id !== undefined) await inside.require(caller, 'delete', refOf(id), context.deadline)
      if (typeof input.project_id === 'string') {
        if (!(await store.keepProject(tx, input.project_id))) throw new Fault('project.not_found')
        await inside.require(caller, 'create', projectOf(input.project_id), context.deadline)
      }
      return toGeneration(await store.update(tx, id, input, caller.userId))
    }),

  favorite: (context: RequestContext, caller: Caller, id: string, { favorite }: Favorite): Promise<Generation> =>
    changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await store.setFavorite(tx, id, caller.userId, favorite)
        return toGeneration(found(await store.find(context.deadline, id, caller.userId, tx)))
      },
      { grantsOnly: true },
    ),

  /** Whoever makes it is told to stop; what is brought all the same is not taken. */
  cancel: (context: RequestContext, caller: Caller, id: string): Promise<Generation> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lock(tx, id))) throw new Fault('generation.not_found')
      await transactionalAccess(tx).require(caller, 'write', refOf(id), context.deadline)
      if (!(await jobs.cancel(tx, id))) throw new Fault('generation.finished')
      await store.finish(tx, id, { status: 'cancelled' })
      await credits.refund(tx, id)
      return toGeneration(found(await store.find(context.deadline, id, caller.userId, tx)))
    }),

  /** As `cancel`, of what a person has under way, a hundred at a time: whether there may be more. */
  cancelSome: async (tx: TransactionSql, ownerId: string): Promise<boolean> => {
    const ids = await store.lockUnfinished(tx, ownerId, cancelledAtOnce)
    for (const id of ids) {
      if (!(await jobs.cancel(tx, id))) continue
      await store.finish(tx, id, { status: 'cancelled' })
      await credits.refund(tx, id)
    }
    return ids.length === cancelledAtOnce
  },

  remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lock(tx, id))) throw new Fault('generation.not_found')
      await transactionalAccess(tx).require(caller, 'delete', refOf(id), context.deadline)
      // Nobody would get back what was paid for one that is gone.
      if (await jobs.cancel(tx, id)) await credits.refund(tx, id)
      await store.remove(tx, id)
    }),
})

export type Generations = ReturnType<typeof createGenerations>
