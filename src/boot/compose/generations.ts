import { randomInt } from 'node:crypto'
import { toGeneration } from '../../generations/mapping.ts'
import { createGenerations } from '../../generations/service.ts'
import { createGenerationStore } from '../../generations/store.ts'
import { createHub, factsPerStream, maxPerInstance } from '../../generations/stream/hub.ts'
import { createGenerationStream } from '../../generations/stream/service.ts'
import { createTicketStore } from '../../generations/stream/ticket-store.ts'
import { createStreamTickets } from '../../generations/stream/tickets.ts'
import { createCancellationStore } from '../../jobs/cancellation-store.ts'
import { createCancellations } from '../../jobs/cancellations.ts'
import { createRunner } from '../../jobs/runner.ts'
import { createJobStore } from '../../jobs/store.ts'
import { createWork } from '../../jobs/work.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createIncludedMedia } from '../../media/included.ts'
import { createLinks } from '../../media/links/service.ts'
import { createLinkTokens } from '../../media/links/token.ts'
import { createMediaStorage } from '../../media/media-storage.ts'
import { createMedia } from '../../media/service.ts'
import { createShareLinks } from '../../media/share-links/service.ts'
import { createShareLinkStore } from '../../media/share-links/store.ts'
import { createMediaStore } from '../../media/store.ts'
import { createUploads } from '../../media/uploads/service.ts'
import { createModels } from '../../models/service.ts'
import { createSpool } from '../../platform/spool.ts'
import { createProviders } from '../../providers/providers.ts'
import { createRunnableModels } from '../../providers/runnable-models.ts'
import type { AccessParts } from './access.ts'
import type { Infrastructure } from './infrastructure.ts'
import type { Shared } from './shared.ts'

/** After this long without an instance that has its model, a job may be leased by any instance, which fails it. */
const strandedMs = 86_400_000
/** For the transaction that leases jobs; no request waits for it. */
const leasingMs = 10_000
const seeds = 2 ** 32

export const composeMedia = (
  infrastructure: Infrastructure,
  access: AccessParts,
  { quotas }: Shared,
  stack: AsyncDisposableStack,
) => {
  const { config, clock, log, database, secrets, images, objects } = infrastructure
  const { changes } = access.caches
  const store = createMediaStore(database.read, database.batch)
  const mediaStorage = createMediaStorage({ store, images, objects, clock, log })
  stack.defer(mediaStorage.close)
  access.caches.bus.on('orphans', mediaStorage.scheduleSweep)
  const media = createMedia({
    store,
    access: access.access,
    transactionalAccess: access.transactionalAccess,
    changes,
    objects,
    spool: createSpool(),
  })
  const links = createLinks({ tokens: createLinkTokens({ secrets, clock }), media, access: access.access, clock })
  return {
    media,
    mediaStorage,
    links,
    includedMedia: createIncludedMedia({ store, links }),
    shareLinks: createShareLinks({
      store: createShareLinkStore(database.read, database.batch),
      transactionalAccess: access.transactionalAccess,
      changes,
      clock,
    }),
    uploads: createUploads({
      store,
      mediaStorage,
      access: access.access,
      changes,
      quotas,
      clock,
      requestMs: config.requestTimeoutMs,
    }),
  }
}

type MediaParts = ReturnType<typeof composeMedia>

export const composeGenerations = (
  { config, clock, log, database, secrets, images, safeFetch, breakers }: Infrastructure,
  { caches, access, transactionalAccess, permissionRecheck, listingStore }: AccessParts,
  { idempotency, credits, quotas }: Shared,
  { media, mediaStorage }: MediaParts,
  stack: AsyncDisposableStack,
) => {
  const { changes, bus } = caches
  const startDeadline = createDeadlines(clock)
  const providers = createProviders({ config, images, clock, log, safeFetch, breakers })
  const models = createModels({ providers: new Set(providers.keys()) })
  const runnableModels = createRunnableModels(models.list(), providers)
  const store = createGenerationStore(database.read, listingStore)
  const jobStore = createJobStore(database.batch, bus.instance, {
    models: runnableModels.list().map(({ model }) => model.id),
    strandedMs,
  })
  const runner = createRunner({
    store: jobStore,
    lease: (limit, leaseMs) =>
      changes.commitAndInvalidate(startDeadline(leasingMs), (tx) => jobStore.lease(tx, limit, leaseMs)),
    work: createWork({
      store: jobStore,
      changes,
      clock,
      models: runnableModels,
      mediaStorage,
      generations: store,
      credits,
    }),
    log,
    concurrency: config.jobConcurrency,
    timeLimitMs: config.generationTimeoutMs,
  })
  stack.defer(runner.close)
  const cancellations = createCancellations({
    store: createCancellationStore(database.batch),
    models: runnableModels,
    log,
  })
  stack.defer(cancellations.stop)
  const streams = createHub({
    findStates: store.findStates,
    findPositions: jobStore.findPositions,
    findEach: async (deadline, wanted) =>
      (await store.findEach(deadline, wanted)).map((row) => row && toGeneration(row)),
    permissions: permissionRecheck,
    caps: config.policy.streams,
    mode: config.limits,
    perInstance: Math.min(maxPerInstance, Math.floor(config.l1MaxEntries / (2 * factsPerStream))),
    clock,
    log,
  })
  stack.defer(streams.close)
  caches.onInvalidated(streams.onInvalidated)
  bus.on('progress', streams.onProgress)
  bus.on('job', () => {
    runner.wake()
    streams.onQueueMoved()
  })
  bus.on('cancelled', ({ generationId }) => {
    runner.abort(generationId)
    cancellations.wake()
  })
  const generations = createGenerations({
    store,
    access,
    transactionalAccess,
    changes,
    idempotency,
    models,
    media,
    credits,
    jobs: jobStore,
    quotas,
    newSeed: () => randomInt(seeds),
  })
  const generationStream = createGenerationStream({ hub: streams, get: generations.get })
  const streamTickets = createStreamTickets({
    secrets,
    store: createTicketStore(database.write, database.batch),
    clock,
  })
  return { models, runner, cancellations, streams, generations, generationStream, streamTickets }
}

export type GenerationParts = ReturnType<typeof composeGenerations>
