import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Action } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import { requireNarrowing } from '../http/narrowing.ts'
import type { RequestContext } from '../http/request-context.ts'
import { allInOrder } from '../kit/async.ts'
import { toPage } from '../kit/cursor.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { generationRef, projectRef, requireFound, toAncestor, toGeneration } from './mapping.ts'
import type { Favorite, Generation, GenerationChanges, Provenance } from './model.ts'
import { createOrdering, type OrderingDependencies } from './ordering.ts'
import type { GenerationFilter, GenerationStore } from './store.ts'

const recordGeneration = recorderOf('generation')

const cancelBatchSize = 100

type Dependencies = OrderingDependencies & {
  readonly store: GenerationStore
  readonly access: Access
  readonly changes: Changes
  readonly credits: { readonly refund: (tx: TransactionSql, generationId: string) => Promise<boolean> }
  readonly jobs: {
    /** False: the generation has ended, there is no job. */
    readonly cancel: (tx: TransactionSql, generationId: string) => Promise<boolean>
  }
}

/**
 * Generations, from the order to the final state. The route has authorized its own action; moving, cancelling and removing
 * are decided again here, under locks that hold until the commit.
 *
 * Guarantee: order, price and job are accepted in one transaction or not at all. A cancelled or removed generation that
 * had not ended is refunded once.
 */
export const createGenerations = (dependencies: Dependencies) => {
  const { store, access, transactionalAccess, changes, credits, jobs } = dependencies

  /** Locks a generation for no key update, with what decides about it, and checks the action again. */
  const lockAndRequire = async (
    tx: TransactionSql,
    context: RequestContext,
    caller: Caller,
    action: Action,
    id: string,
  ): Promise<void> => {
    const subjects = { changedGenerations: [id] }
    await transactionalAccess(tx).lockAndRequire(caller, subjects, action, generationRef(id), context.deadline)
  }

  return {
    create: createOrdering(dependencies),

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
        const authorization = transactionalAccess(tx)
        const projects = typeof input.project_id === 'string' ? [input.project_id] : []
        await authorization.lock(caller, { changedGenerations: [id], projects })
        requireNarrowing(context, input.project_id === null && input.title === undefined)
        if (input.title !== undefined) await authorization.require(caller, 'write', generationRef(id), context.deadline)
        if (input.project_id !== undefined)
          await authorization.require(caller, 'delete', generationRef(id), context.deadline)
        for (const project of projects)
          await authorization.require(caller, 'create', projectRef(project), context.deadline)
        recordGeneration(tx, context, caller, id, 'generation.changed', {
          after: { changed: Object.keys(input), project_id: input.project_id },
        })
        return toGeneration(await store.update(tx, id, input, caller.userId))
      }),

    favorite: (context: RequestContext, caller: Caller, id: string, { favorite }: Favorite): Promise<Generation> =>
      changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const { lockAndRequire } = transactionalAccess(tx)
          await lockAndRequire(caller, { generations: [id] }, 'read', generationRef(id), context.deadline)
          recordGeneration(tx, context, caller, id, 'generation.favorite_changed', { after: { favorite } })
          const [, generation] = await allInOrder([
            () => store.setFavorite(tx, id, caller.userId, favorite),
            () => store.find(context.deadline, id, caller.userId, tx),
          ])
          return toGeneration(requireFound(generation))
        },
        { grantsOnly: true },
      ),

    /** Removes the job in the same transaction, so that its worker is aborted and a late result is refused. */
    cancel: (context: RequestContext, caller: Caller, id: string): Promise<Generation> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockAndRequire(tx, context, caller, 'write', id)
        if (!(await jobs.cancel(tx, id))) throw new Fault('generation.finished')
        recordGeneration(tx, context, caller, id, 'generation.cancelled')
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
        await lockAndRequire(tx, context, caller, 'delete', id)
        // Before the delete: afterwards the job is gone and the price could not be refunded.
        if (await jobs.cancel(tx, id)) await credits.refund(tx, id)
        recordGeneration(tx, context, caller, id, 'generation.deleted')
        await store.remove(tx, id)
      }),
  }
}

export type Generations = ReturnType<typeof createGenerations>
