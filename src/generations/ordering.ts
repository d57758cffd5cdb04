import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import type { TransactionalAccess } from '../access/transactional-access.ts'
import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Idempotency, Replayable } from '../idempotency/idempotency.ts'
import { allInOrder } from '../kit/async.ts'
import { newId } from '../kit/id.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { projectRef, requireFound, toGeneration } from './mapping.ts'
import { type Generation, maxDepth, type NewGeneration } from './model.ts'
import type { GenerationStore } from './store.ts'

const invalid = (pointer: string, detail: string) =>
  new Fault('request.invalid', { problems: [{ in: 'body', pointer, detail }] })

/** Every intent except `original` needs a parent; `original` has none. */
const checkLineage = ({ parent_id, intent = 'original' }: NewGeneration): void => {
  if (parent_id === undefined && intent !== 'original')
    throw invalid('/parent_id', `is required for the intent ${intent}`)
  if (parent_id !== undefined && intent === 'original')
    throw invalid('/intent', 'must not be original for a generation with a parent')
}

type ParameterValue = string | number | boolean

/** A validated order: complete parameters and the price. */
type Order = {
  readonly model: { readonly parameters: Readonly<Record<string, unknown>> }
  readonly parameters: Readonly<Record<string, ParameterValue>>
  readonly outputs: number
  readonly price: number
  /** The most that its outputs may take. */
  readonly maxBytes: number
}

export type OrderingDependencies = {
  readonly store: Pick<GenerationStore, 'findAncestorIds' | 'lockReferenceForKeyShare' | 'insert'>
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
    readonly requireReference: (
      context: RequestContext,
      caller: Caller,
      mediaId: string,
      access: Pick<Access, 'requireMedia' | 'requireDerivation'>,
    ) => Promise<void>
  }
  readonly credits: {
    /** Locks the balance until the end of the transaction, so it goes last. Throws `credits.insufficient`. */
    readonly reserve: (tx: TransactionSql, userId: string, generationId: string, price: number) => Promise<void>
  }
  readonly jobs: {
    /** The bytes of the reference are kept until the job ends, and the bytes for outputs are reserved until then. */
    readonly enqueue: (
      tx: TransactionSql,
      job: { readonly generationId: string; readonly referenceSha256: string | null; readonly reservedBytes: number },
    ) => Promise<void>
  }
  readonly quotas: Pick<Quotas, 'require'>
  /** The seed of a generation that was ordered without one. */
  readonly newSeed: () => number
}

/**
 * Accepts an order. It is decided twice: before the transaction, so that a refusal costs none, and again inside, under locks
 * that hold until the commit, so that no order is accepted after a revocation that forbids it was answered. Project, parent
 * and reference are locked, so they exist when it commits. A repeated request with the same idempotency key gets the first
 * response, even after those were deleted or the caller lost access.
 */
export const createOrdering =
  ({
    store,
    access,
    transactionalAccess,
    changes,
    idempotency,
    models,
    media,
    credits,
    jobs,
    quotas,
    newSeed,
  }: OrderingDependencies) =>
  async (
    context: RequestContext,
    caller: Caller,
    input: NewGeneration,
    key?: string,
  ): Promise<Replayable<Generation>> => {
    const { project_id = null, parent_id, reference_media_id = null, model, prompt } = input
    const { negative_prompt = '', title = '', intent = 'original' } = input
    const requireRights = async (by: Access): Promise<void> => {
      if (project_id !== null) await by.require(caller, 'create', projectRef(project_id), context.deadline)
      if (parent_id !== undefined) await by.requireDerivation(caller, parent_id, context.deadline)
      if (reference_media_id !== null) await media.requireReference(context, caller, reference_media_id, by)
    }
    const authorize = async (): Promise<Order> => {
      checkLineage(input)
      const order = models.order(input)
      await requireRights(access)
      return order
    }
    const subjects = {
      projects: project_id === null ? [] : [project_id],
      generations: parent_id === undefined ? [] : [parent_id],
      media: reference_media_id === null ? [] : [reference_media_id],
    }
    const request = { userId: caller.userId, route: 'POST /api/v1/generations', key, body: input }
    const accept = async (tx: TransactionSql, order: Order) => {
      const authorization = transactionalAccess(tx)
      const [, , ancestors, reference] = await allInOrder([
        () => authorization.lock(caller, subjects),
        () => requireRights(authorization),
        () => (parent_id === undefined ? [] : store.findAncestorIds(tx, parent_id)),
        () => (reference_media_id === null ? null : store.lockReferenceForKeyShare(tx, reference_media_id)),
      ])
      const ancestor_ids = parent_id === undefined ? [] : [parent_id, ...requireFound(ancestors)]
      if (ancestor_ids.length > maxDepth) {
        throw new Fault('generation.too_deep', { extensions: { max_depth: maxDepth } })
      }
      if (reference === undefined) throw new Fault('media.not_found')
      const { outputs, price, maxBytes } = order
      const hasSeed = Object.hasOwn(order.model.parameters, 'seed')
      const id = newId()
      const [, row] = await allInOrder([
        () => quotas.require(tx, caller.userId, { jobs_under_way: 1, stored_bytes: maxBytes }),
        () =>
          store.insert(tx, {
            id,
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
          }),
        () => jobs.enqueue(tx, { generationId: id, referenceSha256: reference, reservedBytes: maxBytes }),
        () => credits.reserve(tx, caller.userId, id, price),
      ])
      audit.record(tx, {
        action: 'generation.ordered',
        actor: caller,
        target: { type: 'generation', id },
        after: { model, outputs, price, project_id },
        context,
      })
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
  }
