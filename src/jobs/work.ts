import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Clock } from '../kit/clock.ts'
import { createDeadline } from '../kit/deadline.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Provider, Reference } from '../providers/provider.ts'
import type { Failure, Work } from './runner.ts'
import type { JobStore, Lease, LeasedJob } from './store.ts'

/** For one transaction that concludes a job; nobody waits for it, so there is no hurry. */
const concludingMs = 30_000
/** How much of making a thing is what its provider does; the rest is looking at it and making it smaller. */
const providersShare = 0.9

/** What others do about a job that ends, in its transaction; and with what was made, before it. */
type Dependencies<R> = {
  readonly store: Pick<JobStore, 'finish' | 'failPermanently'>
  readonly changes: Changes
  readonly clock: Clock
  readonly findModel: (
    id: string,
  ) => { readonly provider: string; readonly provider_model: string; readonly kind: 'image' | 'video' } | undefined
  readonly providers: ReadonlyMap<string, Provider>
  /** What an error of a provider means. */
  readonly judge: (error: unknown) => Failure
  /** The picture that a job goes by, as it is given to a provider. */
  readonly readReference: (sha256: string, signal: AbortSignal) => Promise<Reference>
  /** Looks at what a provider brought; throws what `judge` knows. */
  readonly inspect: (bytes: Uint8Array, signal: AbortSignal, kind: 'image' | 'video') => Promise<R>
  /** Puts things where they are kept; they may yet come to nothing. */
  readonly keep: (things: readonly R[]) => Promise<void>
  /** Gives up what was to be kept and came to nothing. */
  readonly abandon: (things: readonly R[]) => Promise<void>
  /** Says whose they are. */
  readonly publish: (
    tx: TransactionSql,
    of: { generationId: string; ownerId: string },
    things: readonly R[],
  ) => Promise<unknown>
  readonly markCompleted: (tx: TransactionSql, generationId: string) => Promise<void>
  readonly markFailed: (tx: TransactionSql, generationId: string, reason: string) => Promise<void>
  readonly settle: (tx: TransactionSql, generationId: string) => Promise<boolean>
  readonly refund: (tx: TransactionSql, generationId: string) => Promise<boolean>
}

/**
 * From a job to media: a provider makes them, they are looked at and put in their place, and then one transaction says that
 * they are there, that the generation is completed and that it is paid for; or that it failed, and gives the credits back.
 */
export const createWork = <R>(dependencies: Dependencies<R>): Work<readonly R[]> => {
  const { store, changes, clock, findModel, providers, judge, readReference, inspect, keep, abandon, publish } =
    dependencies
  const { markCompleted, markFailed, settle, refund } = dependencies

  /** Does it if the job is still ours to end. */
  const concluding = (
    end: (tx: TransactionSql, lease: Lease) => Promise<boolean>,
    lease: Lease,
    work: (tx: TransactionSql) => Promise<void>,
  ): Promise<boolean> =>
    changes.commitAndInvalidate(createDeadline(clock, concludingMs), async (tx) => {
      if (!(await end(tx, lease))) return false
      await work(tx)
      return true
    })

  /** Whoever keeps the bytes cannot be reached, or has lost them; that may pass. */
  const referenceOf = async ({ reference_sha256 }: LeasedJob, signal: AbortSignal): Promise<Reference | undefined> => {
    if (reference_sha256 === null) return undefined
    return readReference(reference_sha256, signal).catch((cause: unknown) => {
      throw new ReferenceMissing(cause)
    })
  }

  const orderOf = (
    job: LeasedJob,
    { provider_model, kind }: { provider_model: string; kind: 'image' | 'video' },
    reference: Reference | undefined,
  ) => ({
    generationId: job.generation_id,
    providerModel: provider_model,
    kind,
    prompt: job.prompt,
    negativePrompt: job.negative_prompt,
    parameters: job.parameters,
    outputs: job.outputs,
    ...(reference && { reference }),
  })

  return {
    make: async (job, { signal, onProgress, note }) => {
      const model = findModel(job.model)
      const provider = model && providers.get(model.provider)
      if (model === undefined || provider === undefined) throw new ModelUnavailable()
      const reference = await referenceOf(job, signal)
      signal.throwIfAborted()
      const made = await provider.make(orderOf(job, model, reference), {
        signal,
        onProgress: (fraction) => onProgress(fraction * providersShare),
        remote: job.remote,
        note,
      })
      if (made.length !== job.outputs) throw new WrongCount(made.length)
      const things: R[] = []
      for (const { bytes } of made) {
        signal.throwIfAborted()
        things.push(await inspect(bytes, signal, model.kind))
        onProgress(providersShare + ((1 - providersShare) * things.length) / made.length)
      }
      return things
    },

    complete: async (job, lease, things) => {
      let done = false
      try {
        await keep(things)
        done = await concluding(store.finish, lease, async (tx) => {
          await publish(tx, { generationId: job.generation_id, ownerId: job.owner_id }, things)
          await markCompleted(tx, job.generation_id)
          await settle(tx, job.generation_id)
        })
        return done
      } finally {
        // If that cannot be written down either, it comes to nothing by itself.
        if (!done) await abandon(things).catch(() => {})
      }
    },

    fail: async (job, lease, { reason }) => {
      await concluding(store.failPermanently, lease, async (tx) => {
        await markFailed(tx, job.generation_id, reason)
        await refund(tx, job.generation_id)
      })
    },

    judge: (error) => {
      // It is only taken here when nobody has made it for a long time.
      if (error instanceof ModelUnavailable) return { reason: 'unavailable', retryable: false }
      if (error instanceof ReferenceMissing) return { reason: 'unavailable', retryable: true }
      if (error instanceof WrongCount) return { reason: 'invalid_output', retryable: false }
      return judge(error)
    },
  }
}

class ModelUnavailable extends Error {
  override readonly name = 'NobodyMakesIt'
}

class ReferenceMissing extends Error {
  override readonly name = 'ReferenceMissing'
  constructor(cause: unknown) {
    super('The bytes of a reference cannot be had', { cause })
  }
}

class WrongCount extends Error {
  override readonly name = 'WrongCount'
  constructor(count: number) {
    super(`A provider made ${count}, which is not what was ordered`)
  }
}
