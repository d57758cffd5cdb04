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

const requireFound = <T>(row: T | undefined): T => {
  // Deleted between the decision and this read.
  if (row === undefined) throw new Fault('generation.not_found')
  return row
}

const generationRef = (id: string): ResourceRef => ({ type: 'generation', id })
const projectRef = (id: string): ResourceRef => ({ type: 'project', id })

const invalid = (pointer: string, detail: string) =>
  new Fault('request.invalid', { problems: [{ in: 'body', pointer, detail }] })

/** Every intent except `original` needs a parent; `original` has none. */
const checkLineage = ({ parent_id, intent = 'original' }: NewGeneration): void => {
  if (parent_id === undefined && intent !== 'original')
    throw invalid('/parent_id', `is required for the intent ${intent}`)
  if (parent_id !== undefined && intent === 'original')
    throw invalid('/intent', 'must not be original for a generation with a parent')
}

const cancelBatchSize = 100

type ParameterValue = string | number | boolean

/** A validated order: complete parameters and the price. */
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
   * Accepts an order: project, parent and reference are locked for key share, so they exist when it commits. A repeated
   * request with the same idempotency key gets the first response, even after those were deleted or the caller lost access.
   */
  create: async (
    context: RequestContext,
    caller: Caller,
    input: NewGeneration,
    key?: string,
  ): Promise<Replayable<Generation>> => {
    const { project_id = null, parent_id, reference_media_id = null, model, prompt } = input
    const { negative_prompt = '', title = '', intent = 'original' } = input
    const authorize = async (): Promise<Order> => {
      checkLineage(input)
      const order = models.order(input)
      if (project_id !== null) await access.require(caller, 'create', projectRef(project_id), context.deadline)
      if (parent_id !== undefined) await access.requireDerivation(caller, parent_id, context.deadline)
      if (reference_media_id !== null) await media.requireReference(context, caller, reference_media_id)
      return order
    }
    const request = { userId: caller.userId, route: 'POST /api/v1/generations', key, body: input }
    const accept = async (tx: TransactionSql, order: Order) => {
      if (project_id !== null && !(await store.lockProjectForKeyShare(tx, project_id)))
        throw new Fault('project.not_found')
      const ancestor_ids =
        parent_id === undefined ? [] : [parent_id, ...requireFound(await store.lockParentForKeyShare(tx, parent_id))]
      if (ancestor_ids.length > maxDepth) {
        throw new Fault('generation.too_deep', { extensions: { max_depth: maxDepth } })
      }
      const reference =
        reference_media_id === null ? null : await store.lockReferenceForKeyShare(tx, reference_media_id)
      if (reference === undefined) throw new Fault('media.not_found')
      const { outputs, price } = order
      const hasSeed = Object.hasOwn(order.model.parameters, 'seed')
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
        // The seed is stored with the order, so that every attempt, and a later order, can reproduce the output.
        parameters: { ...(hasSeed && { seed: newSeed() }), ...order.parameters },
        reference_media_id,
        outputs,
        price,
      })
      await jobs.enqueue(tx, row.id, reference)
      await credits.reserve(tx, caller.userId, row.id, price)
      return { status: 201, body: toGeneration(row) }
    }
    const authorized = authorize()
    // With a key, a refusal counts only inside `once`: a repeated request gets the stored response even if it would be
    // refused by now.
    await (key === undefined ? authorized : Promise.allSettled([authorized]))
    return changes.commitAndInvalidate(
      context.deadline,
      (tx) => idempotency.once(tx, request, async () => accept(tx, await authorized)),
      {
        grantsOnly: true,
      },
    )
  },

  get: async (context: RequestContext, caller: Caller, id: string): Promise<Generation> =>
    toGeneration(requireFound(await store.find(context.deadline, id, caller.userId))),

  list: async (context: RequestContext, caller: Caller, filter: GenerationFilter) => {
    const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, filter), filter.limit)
    return { items: items.map(toGeneration), next_cursor }
  },

  /** The depth is the same for every caller; an ancestor is shown if the caller may read it and otherwise only counted. */
  provenance: async (context: RequestContext, caller: Caller, id: string): Promise<Provenance> => {
    const { depth, ancestors } = requireFound(await store.findAncestors(context.deadline, id))
    const decisions = await access.decideMany(
      ancestors.map((ancestor) => ({ userId: caller.userId, action: 'read', resource: generationRef(ancestor.id) })),
      context.deadline,
    )
    const items = ancestors.filter((_, index) => decisions[index]?.allowed).map(toAncestor)
    return { items, hidden: depth - items.length }
  },

  /** A title needs `write`. A move needs `delete` on the generation and `create` on the new project. */
  update: (context: RequestContext, caller: Caller, id: string, input: GenerationChanges): Promise<Generation> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lockForNoKeyUpdate(tx, id))) throw new Fault('generation.not_found')
      const authorization = transactionalAccess(tx)
      if (input.title !== undefined) await authorization.require(caller, 'write', generationRef(id), context.deadline)
      if (input.project_id !== undefined)
        await authorization.require(caller, 'delete', generationRef(id), context.deadline)
      if (typeof input.project_id === 'string') {
        if (!(await store.lockProjectForKeyShare(tx, input.project_id))) throw new Fault('project.not_found')
        await authorization.require(caller, 'create', projectRef(input.project_id), context.deadline)
      }
      return toGeneration(await store.update(tx, id, input, caller.userId))
    }),

  favorite: (context: RequestContext, caller: Caller, id: string, { favorite }: Favorite): Promise<Generation> =>
    changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await store.setFavorite(tx, id, caller.userId, favorite)
        return toGeneration(requireFound(await store.find(context.deadline, id, caller.userId, tx)))
      },
      { grantsOnly: true },
    ),

  /** Removes the job in the same transaction, so that its worker is aborted and a late result is refused. */
  cancel: (context: RequestContext, caller: Caller, id: string): Promise<Generation> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lockForNoKeyUpdate(tx, id))) throw new Fault('generation.not_found')
      await transactionalAccess(tx).require(caller, 'write', generationRef(id), context.deadline)
      if (!(await jobs.cancel(tx, id))) throw new Fault('generation.finished')
      await store.finish(tx, id, { status: 'cancelled' })
      await credits.refund(tx, id)
      return toGeneration(requireFound(await store.find(context.deadline, id, caller.userId, tx)))
    }),

  /** As `cancel`, for up to 100 unfinished generations of a user. True: there may be more. */
  cancelUnfinished: async (tx: TransactionSql, ownerId: string): Promise<boolean> => {
    const ids = await store.lockUnfinishedForNoKeyUpdate(tx, ownerId, cancelBatchSize)
    for (const id of ids) {
      if (!(await jobs.cancel(tx, id))) continue
      await store.finish(tx, id, { status: 'cancelled' })
      await credits.refund(tx, id)
    }
    return ids.length === cancelBatchSize
  },

  remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lockForNoKeyUpdate(tx, id))) throw new Fault('generation.not_found')
      await transactionalAccess(tx).require(caller, 'delete', generationRef(id), context.deadline)
      // Before the delete: afterwards the job is gone and the price could not be refunded.
      if (await jobs.cancel(tx, id)) await credits.refund(tx, id)
      await store.remove(tx, id)
    }),
})

export type Generations = ReturnType<typeof createGenerations>
