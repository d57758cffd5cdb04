import type { InvalidationKeys } from '../../access/invalidation/model.ts'
import type { PermissionRecheck, StreamPermission } from '../../access/permission-recheck.ts'
import { Fault } from '../../fault.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createEventStream } from '../../kit/event-stream.ts'
import type { LimitMode } from '../../limits/limits.ts'
import { defaultPolicy, type StreamCaps } from '../../limits/policy.ts'
import { createDelivery, type Subscription } from './delivery.ts'
import { createFinalStateLoader, type FindEach } from './final-state-loader.ts'
import type { SentState } from './state.ts'
import { createStateTracker, type StateTracker } from './state-tracker.ts'
import { createSubscriberIndex, type SubscriberIndex } from './subscriber-index.ts'

export const maxPerInstance = 5_000
/** Facts in memory that the permission of one stream needs. More streams than fit would evict the facts of requests. */
export const factsPerStream = 5
/** How often every permission is re-checked, in addition to the re-checks that invalidations cause. */
const recheckMs = 250
const recheckTimeoutMs = 1_000
/** Changes to projects within this time cause one re-check of all streams, because streams are not indexed by project. */
const projectCoalesceMs = 50
/** With `LIMITS=monitor`, what would be refused is logged once in this time. */
const logEveryMs = 60_000

/** `address`: what limits count the client as; undefined: not limited by address. */
export type StreamClient = { readonly permission: StreamPermission; readonly address: string | undefined }

/**
 * The event streams of this instance. Each sends one client the state of one generation until that ends.
 *
 * Guarantee: a client gets the newest state and finally the complete generation. The permission is re-checked before every
 * write, as for a new request; when it is lost or cannot be decided, the stream ends without another write, and so do the
 * stream of a deleted generation and one that gives way to another person (see `SubscriberIndex`).
 * Cost: an invalidation re-checks the streams it affects, and every 250 ms all are re-checked: from memory, and in one
 * statement for all those whose facts are not in memory.
 * Degrades: without the invalidation bus every re-check is a statement and states are up to a few seconds old; without
 * Postgres all streams end and clients reconnect.
 */
export type Hub = {
  /** `sent` is the state the client has received. Throws a fault at the limits and while stopping. */
  open(generationId: string, client: StreamClient, sent: SentState | undefined): ReadableStream<Uint8Array>
  onInvalidated(keys: InvalidationKeys): void
  readonly onProgress: StateTracker['onProgress']
  readonly onQueueMoved: StateTracker['onQueueMoved']
  readonly size: number
  /** Ends all streams and refuses new ones. */
  close(): void
}

export type HubDependencies = Pick<
  Parameters<typeof createStateTracker>[0],
  'findStates' | 'findPositions' | 'clock' | 'log'
> & {
  readonly permissions: PermissionRecheck
  readonly findEach: FindEach
  readonly caps?: StreamCaps
  readonly perInstance?: number
  /** Addresses are limited only where this is `on`; `monitor` logs what would be refused. */
  readonly mode?: LimitMode
  readonly random?: () => number
  /** Timers; each returns its own cancellation. */
  readonly after?: (ms: number, callback: () => void) => () => void
  readonly every?: (ms: number, callback: () => void) => () => void
}

const afterTimeout = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms)
  return () => clearTimeout(timer)
}
const everyInterval = (ms: number, callback: () => void) => {
  const timer = setInterval(callback, ms)
  return () => clearInterval(timer)
}

/** The subscription that has to end first for a new one. Throws a fault at the limits. */
const createCapacityCheck = ({
  subscribers,
  mode,
  clock,
  log,
}: Pick<HubDependencies, 'clock' | 'log'> & { subscribers: SubscriberIndex<Subscription>; mode: LimitMode }) => {
  let logAgainAtMs = Number.NEGATIVE_INFINITY
  const atAddress = ({ address, permission }: StreamClient): Subscription | undefined => {
    if (address === undefined || mode === 'off') return undefined
    if (mode === 'on') return subscribers.requireCapacityFrom(address, permission)
    if (subscribers.hasCapacityFrom(address) || clock.monotonic() < logAgainAtMs) return undefined
    logAgainAtMs = clock.monotonic() + logEveryMs
    log.info({ event: 'generation.streams_limited', address, mode }, 'an address has more streams than it may')
    return undefined
  }
  return (client: StreamClient): Subscription | undefined => {
    const neighbour = atAddress(client)
    const ofInstance = subscribers.requireCapacity(client.permission)
    // One end makes room for both.
    return neighbour ?? ofInstance
  }
}

export const createHub = ({
  findStates,
  findPositions,
  findEach,
  permissions,
  clock,
  log,
  caps = defaultPolicy.streams,
  perInstance = maxPerInstance,
  mode = 'on',
  random = Math.random,
  after = afterTimeout,
  every = everyInterval,
}: HubDependencies): Hub => {
  const startDeadline = createDeadlines(clock)
  const subscribers = createSubscriberIndex<Subscription>({ ...caps, instance: perInstance })
  const requireCapacity = createCapacityCheck({ subscribers, mode, clock, log })
  let recheckScheduled = false
  let closed = false
  let stopTicking: (() => void) | undefined

  const remove = (subscription: Subscription) => {
    if (!subscribers.remove(subscription)) return
    subscription.ended = true
    finalStates.cancel(subscription)
    tracker.unwatch(subscription.generationId)
    if (subscribers.size > 0) return
    stopTicking?.()
    stopTicking = undefined
  }

  /** One statement for all subscriptions whose permission memory could not decide. An error ends them. */
  const recheckInDatabase = async (undecided: readonly Subscription[]) => {
    let allowed: readonly boolean[] = []
    try {
      allowed = await permissions.gather(
        undecided.map(({ permission }) => permission),
        startDeadline(recheckTimeoutMs),
      )
    } catch (error) {
      log.debug({ error, streams: undecided.length }, 'permissions of streams could not be re-checked')
    }
    for (const [index, subscription] of undecided.entries()) {
      subscription.rechecking = false
      if (subscription.ended) continue
      if (allowed[index] === true) deliver(subscription)
      else end(subscription)
    }
  }

  /** Re-checks the permission of each subscription, then delivers to it or ends it. */
  const recheck = (subscriptions: readonly Subscription[]) => {
    const undecided: Subscription[] = []
    for (const subscription of subscriptions) {
      if (subscription.ended || subscription.rechecking) continue
      const allowed = permissions.peek(subscription.permission)
      if (allowed === undefined) {
        subscription.rechecking = true
        undecided.push(subscription)
      } else if (allowed) deliver(subscription)
      else end(subscription)
    }
    if (undecided.length > 0) void recheckInDatabase(undecided)
  }

  const scheduleRecheckOfAll = () => {
    if (recheckScheduled) return
    recheckScheduled = true
    after(projectCoalesceMs, () => {
      recheckScheduled = false
      recheck(subscribers.all())
    })
  }

  const finalStates = createFinalStateLoader<Subscription>({
    findEach,
    clock,
    log,
    onLoaded: (subscription, generation) => {
      if (generation === undefined) return end(subscription)
      subscription.finalState = generation
      recheck([subscription])
    },
  })

  const tracker = createStateTracker({
    findStates,
    findPositions,
    clock,
    after,
    log,
    onChange: (ids) => {
      for (const id of ids) recheck(subscribers.dependingOn(`generation:${id}`))
    },
  })

  const { deliver, end } = createDelivery({ tracker, loadFinalState: finalStates.request, clock, random, remove })

  const tick = () => {
    recheck(subscribers.all())
    tracker.tick()
  }

  return {
    open: (generationId, client, sent) => {
      if (closed) throw new Fault('server.stopping')
      const givesWay = requireCapacity(client)
      if (givesWay !== undefined) end(givesWay)
      const stream = createEventStream({
        onReady: () => recheck([subscription]),
        onDisconnect: () => remove(subscription),
      })
      const subscription: Subscription = {
        generationId,
        ...client,
        stream,
        sent,
        comparedWith: undefined,
        finalState: undefined,
        opened: false,
        rechecking: false,
        ended: false,
        sentAtMs: clock.monotonic(),
      }
      subscribers.add(subscription)
      tracker.watch(generationId)
      stopTicking ??= every(recheckMs, tick)
      return stream.body
    },
    onInvalidated: (keys) => {
      if (subscribers.size === 0) return
      tracker.onInvalidated(keys)
      if (keys === 'everything') return recheck(subscribers.all())
      for (const key of keys) {
        recheck(subscribers.dependingOn(key))
        if (key.startsWith('project:')) scheduleRecheckOfAll()
      }
    },
    onProgress: tracker.onProgress,
    onQueueMoved: tracker.onQueueMoved,
    get size() {
      return subscribers.size
    },
    close: () => {
      closed = true
      for (const subscription of subscribers.all()) end(subscription)
    },
  }
}
