import type { Changes } from '../access/invalidation/committed-change.ts'
import { delay } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import { createDeadlines } from '../kit/deadline.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { PoolBusy, WorkTimedOut } from '../platform/worker-pool.ts'
import { classifyProviderError, outputRefusalOf } from '../providers/failure.ts'
import { defaultDigitalSource, type Order, type Reference } from '../providers/provider.ts'
import type { RunnableModel, RunnableModels } from '../providers/runnable-models.ts'
import type { Lease, LeasedJob } from './lease-store.ts'
import type { Work } from './running-attempts.ts'
import type { JobStore } from './store.ts'

/** Deadline of the transaction that ends a job. No request waits for it, so it may be long. */
const endingMs = 30_000
/** The provider's part of the progress of an attempt; inspecting and scaling its outputs is the rest. */
const providerShare = 0.9

/** Pause before an output is inspected again when the image workers were busy. */
const busyPauseMs = 500

/** Media storage as a job uses it. `M` is one inspected output with its thumbnails. */
type OutputStorage<M> = {
  /** The picture a generation starts from, as it is handed to a provider. */
  readonly readReference: (sha256: string, signal: AbortSignal) => Promise<Reference>
  /** Throws an error that `classifyProviderError` knows when the output is not a valid picture or video. */
  readonly inspect: (bytes: Uint8Array, signal: AbortSignal, kind: 'image' | 'video', madeBy: string) => Promise<M>
  /** Claims the outputs and writes their bytes. Nothing refers to them until `confirm`. */
  readonly put: (media: readonly M[]) => Promise<void>
  /** Releases the claims of outputs that were not confirmed; their bytes become orphans. */
  readonly discard: (media: readonly M[]) => Promise<void>
  /** Inserts the media rows inside the transaction that completes the generation. */
  readonly confirm: (
    tx: TransactionSql,
    of: { generationId: string; ownerId: string },
    media: readonly M[],
  ) => Promise<unknown>
}

type Outcome =
  | { readonly status: 'completed' }
  | { readonly status: 'failed'; readonly failure: string; readonly failure_detail: string | null }

type Dependencies<M> = {
  readonly store: Pick<JobStore, 'complete' | 'failPermanently'>
  readonly changes: Changes
  readonly clock: Clock
  readonly models: Pick<RunnableModels, 'find'>
  readonly mediaStorage: OutputStorage<M>
  readonly generations: {
    readonly finish: (tx: TransactionSql, generationId: string, outcome: Outcome) => Promise<void>
  }
  readonly credits: {
    readonly settle: (tx: TransactionSql, generationId: string) => Promise<boolean>
    readonly refund: (tx: TransactionSql, generationId: string) => Promise<boolean>
  }
}

/**
 * Makes the media of a job and ends the job.
 *
 * Guarantee: one transaction removes the job, confirms its media, marks the generation completed and settles its price;
 * or it removes the job, marks the generation failed and refunds the price. Both happen only under the job's lease, so at
 * most one of them, once.
 * Degrades: outputs that are not confirmed are discarded; if that fails too, their claims expire and the sweep removes them.
 */
export const createWork = <M>({
  store,
  changes,
  clock,
  models,
  mediaStorage,
  generations,
  credits,
}: Dependencies<M>): Work<readonly M[]> => {
  const startDeadline = createDeadlines(clock)

  /** Removes the job by `removeJob` and runs `conclude` in the same transaction. False: the lease is lost, nothing is written. */
  const endJob = (
    removeJob: (tx: TransactionSql, lease: Lease) => Promise<boolean>,
    lease: Lease,
    conclude: (tx: TransactionSql) => Promise<void>,
  ): Promise<boolean> =>
    changes.commitAndInvalidate(startDeadline(endingMs), async (tx) => {
      if (!(await removeJob(tx, lease))) return false
      await conclude(tx)
      return true
    })

  const readReference = async (
    { reference_sha256 }: LeasedJob,
    signal: AbortSignal,
  ): Promise<Reference | undefined> => {
    if (reference_sha256 === null) return undefined
    return mediaStorage.readReference(reference_sha256, signal).catch((cause: unknown) => {
      throw new ReferenceUnreadable(cause)
    })
  }

  const toOrder = (
    job: LeasedJob,
    { provider_model, kind }: RunnableModel['model'],
    reference: Reference | undefined,
  ): Order => ({
    generationId: job.generation_id,
    providerModel: provider_model,
    kind,
    prompt: job.prompt,
    negativePrompt: job.negative_prompt,
    parameters: job.parameters,
    outputs: job.outputs,
    ...(reference && { reference }),
  })

  /**
   * Inspects a delivered output. It may have been paid for, so busy workers are waited for until the signal aborts, and an
   * output that takes the whole time limit of a worker is refused: another attempt could place another order.
   */
  const inspect = async (...input: Parameters<OutputStorage<M>['inspect']>): Promise<M> => {
    for (;;) {
      try {
        return await mediaStorage.inspect(...input)
      } catch (error) {
        if (error instanceof WorkTimedOut) throw new OutputUndecodable(error)
        if (!(error instanceof PoolBusy)) throw error
        const [, signal] = input
        await delay(busyPauseMs, signal)
      }
    }
  }

  return {
    make: async (job, { signal, onProgress, recordRemoteOrder }) => {
      const runnable = models.find(job.model)
      if (runnable === undefined) throw new ModelUnavailable()
      const { model, provider } = runnable
      const reference = await readReference(job, signal)
      signal.throwIfAborted()
      const outputs = await provider.generate(toOrder(job, model, reference), {
        signal,
        onProgress: (fraction) => onProgress(fraction * providerShare),
        remoteOrder: job.remote,
        recordRemoteOrder,
      })
      if (outputs.length !== job.outputs) throw new WrongOutputCount(outputs.length, job.outputs)
      const madeBy = provider.digitalSource ?? defaultDigitalSource
      const media: M[] = []
      for (const { bytes } of outputs) {
        signal.throwIfAborted()
        media.push(await inspect(bytes, signal, model.kind, madeBy))
        onProgress(providerShare + ((1 - providerShare) * media.length) / outputs.length)
      }
      return media
    },

    complete: async (job, lease, media) => {
      let completed = false
      try {
        await mediaStorage.put(media)
        completed = await endJob(store.complete, lease, async (tx) => {
          await mediaStorage.confirm(tx, { generationId: job.generation_id, ownerId: job.owner_id }, media)
          await generations.finish(tx, job.generation_id, { status: 'completed' })
          await credits.settle(tx, job.generation_id)
        })
        return completed
      } finally {
        // A discard that fails is made good by the sweep, once the claims are old.
        if (!completed) await mediaStorage.discard(media).catch(() => {})
      }
    },

    failPermanently: async (job, lease, { reason, detail = null }) => {
      await endJob(store.failPermanently, lease, async (tx) => {
        const outcome = { status: 'failed', failure: reason, failure_detail: detail } as const
        await generations.finish(tx, job.generation_id, outcome)
        await credits.refund(tx, job.generation_id)
      })
    },

    classifyFailure: (error) => {
      // Such a job is leased here only after it was stranded, so another attempt cannot help.
      if (error instanceof ModelUnavailable) return { reason: 'unavailable', retryable: false }
      if (error instanceof ReferenceUnreadable) return { reason: 'unavailable', retryable: true }
      if (error instanceof WrongOutputCount) return { reason: 'invalid_output', retryable: false }
      if (error instanceof OutputUndecodable) return { reason: 'invalid_output', retryable: false, detail: 'damaged' }
      const detail = outputRefusalOf(error)
      return { ...classifyProviderError(error), ...(detail !== undefined && { detail }) }
    },
  }
}

class ModelUnavailable extends Error {
  override readonly name = 'ModelUnavailable'
}

/** The object store does not answer, or has lost the bytes. Either may be over at the next attempt. */
class ReferenceUnreadable extends Error {
  override readonly name = 'ReferenceUnreadable'
  constructor(cause: unknown) {
    super('The reference picture could not be read', { cause })
  }
}

class OutputUndecodable extends Error {
  override readonly name = 'OutputUndecodable'
  constructor(cause: unknown) {
    super('An output could not be decoded within the time limit', { cause })
  }
}

class WrongOutputCount extends Error {
  override readonly name = 'WrongOutputCount'
  constructor(received: number, ordered: number) {
    super(`The provider returned ${received} outputs, ${ordered} were ordered`)
  }
}
