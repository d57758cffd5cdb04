import type { Clock } from '../../kit/clock.ts'
import type { LogHistogram } from '../../kit/log-histogram.ts'
import type { BusHandlers } from './bus-handlers.ts'
import type { CommitWait } from './commit-waits.ts'
import { type BusConnection, createLeaseKeeper } from './lease-keeper.ts'
import type { InvalidationKeys } from './model.ts'
import { createReceiver } from './receiver.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from './timing.ts'
import type { TopicListener, TopicName } from './topics.ts'
import type { BusProblem, NoLeaseReason } from './tracking.ts'

/**
 * Delivers invalidation events between instances over LISTEN/NOTIFY, and decides until when an instance may trust its
 * memory.
 *
 * Memory is trusted under a lease, counted from when our newest heartbeat was sent that came back and proved that nothing is
 * missing. A heartbeat is notified by the database of the changes, on the way that changes go, and carries that database's
 * identity and the position of its newest event. It renews the lease only if we listen to the database of that identity and
 * have applied every event up to that position. Whatever is committed and unsent goes ahead of it, so everything committed
 * before it was sent has then been applied. A lost event, or a position lower than one seen, ends the lease at once: memory
 * is cleared and the connections are replaced.
 *
 * A writer waits until every member (an instance whose heartbeat arrived within two leases) has acknowledged its event, or
 * for 1.25 leases from the commit. It waits that long for an instance of another version, and while it cannot know its members.
 *
 * Guarantee: once `acknowledgedByAll` resolves, no instance trusts memory that predates the change. The rates of clocks may
 * differ from real time by 10 % each way; they need not show equal times.
 *
 * Degrades: without its connections an instance has no lease after `leaseMs`, and every change it makes takes 1.25 leases.
 * A frozen member delays the changes of others by as much, until it stops being a member after two leases.
 */
export type Bus = {
  readonly instance: string
  /** Until when this instance may trust its memory, on the monotonic time of the clock of leases. */
  readonly lease: { readonly untilMs: number }
  /** Undefined while a lease is held. */
  noLeaseReason(): NoLeaseReason | undefined
  /**
   * The database whose changes the bus delivers. A change committed to another one would reach no instance. Undefined until
   * the bus is open, and from two leases after its connections were lost.
   */
  databaseIdentity(): string | undefined
  registerCommit(eventId: string, keys?: InvalidationKeys): CommitWait
  /**
   * Registers the listener of a topic; throws where it has one. Messages arrive in commit order, among the events. Not
   * durable: a message sent while the connection is lost never arrives.
   */
  on<T extends TopicName>(topic: T, listener: TopicListener<T>): void
  /** The other instances whose heartbeats arrived within two leases. */
  members(): string[]
  /** Of those, the ones of another version: each change waits until their leases are over. */
  membersOfOtherVersion(): string[]
  readonly counts: Readonly<BusCounts>
  /** How long changes of this instance waited for acknowledgements, in milliseconds. */
  readonly waits: Pick<LogHistogram, 'count' | 'max' | 'quantile'>
  close(): Promise<void>
}

/** A bus whose connection is driven from outside. */
export type LocalBus = Bus & {
  /** The callbacks of the connection that listens. `onOpen` gets the identity of the database it leads to, if known. */
  readonly connection: {
    onMessage(payload: string): void
    onOpen(listeningTo: string | undefined): void
    onLost(): void
    /** An attempt to open it failed. */
    onUnreachable(): void
  }
}

/** Since the start. */
export type BusCounts = {
  /** Events received, our own among them. */
  readonly events: number
  /** Changes committed by this instance. */
  readonly commits: number
  /** Of those, acknowledged by every member. */
  readonly acknowledged: number
  /** Of those, answered when the lease of a silent instance was over. */
  readonly lapsed: number
  /** How often an event was found to be missing. */
  readonly gaps: number
}

type Options = {
  readonly instance: string
  readonly clock: Clock
  /** For the lease alone; see createLeaseClock. Default: `clock`. */
  readonly leaseClock?: Clock
  readonly connection: BusConnection
  readonly handlers: BusHandlers
  /** Called when a reason is found why no lease can be held, and with undefined once one is held again. */
  readonly onProblem?: (reason: BusProblem | undefined) => void
  /** Default true. False: changes do not wait and the guarantee is void, which is how tests prove that it takes this. */
  readonly acknowledge?: boolean | undefined
  /** Default a lease of 1,000 ms and a heartbeat each 250 ms. */
  readonly timing?: LeaseTiming | undefined
  /** Calls back after a delay; the function it returns cancels that. */
  readonly after?: (ms: number, callback: () => void) => () => void
}

const afterTimeout = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms)
  return () => clearTimeout(timer)
}

/** A bus of one thread, which receives and decides. */
export const createBus = ({
  instance,
  clock,
  leaseClock = clock,
  connection,
  handlers,
  onProblem = () => {},
  acknowledge = true,
  timing: leaseTiming = defaultLeaseTiming,
  after = afterTimeout,
}: Options): LocalBus => {
  const timing = deriveTiming(leaseTiming)
  const receiver = createReceiver({ instance, clock, timing, handlers, acknowledge, after })
  const keeper = createLeaseKeeper({
    instance,
    clock,
    leaseClock,
    timing,
    connection,
    append: (record) => {
      receiver.apply(record)
      return true
    },
    isDrained: () => true,
    prepare: (opening) => receiver.prepare({ ...opening, switches: undefined }),
    onLease: () => {},
    onReason: () => {},
    onProblem,
  })
  const { on, members, membersOfOtherVersion, counts, waits, databaseIdentity, registerCommit } = receiver
  return {
    instance,
    lease: keeper.lease,
    noLeaseReason: keeper.noLeaseReason,
    databaseIdentity,
    registerCommit,
    on,
    members,
    membersOfOtherVersion,
    counts,
    waits,
    connection: keeper,
    close: keeper.close,
  }
}
