import type { FlagValues } from '../cache/tier-switches.ts'
import type { InvalidationEvent } from './model.ts'
import type { DatabasePosition } from './topics.ts'

/** The database of the changes as one statement saw it: every event that Redis has not confirmed yet is pending. */
export type BusSnapshot = DatabasePosition & { readonly pendingInvalidations: readonly InvalidationEvent[] }

/** A new connection, before a lease can begin on it. */
export type BusOpening = {
  readonly identity: string
  /** The connection before led to another database. */
  readonly isOther: boolean
  /** As read on the way that changes go, after listening began; undefined: not read. */
  readonly switches: FlagValues | undefined
}

export type BusReset = BusSnapshot & {
  /** Whether it is the database of the connection before, in a state no older than the one seen there. */
  readonly isContinued: boolean
}

/**
 * How an instance applies messages. Every handler but `beforeLease` is synchronous: when it returns, the message has
 * been applied.
 */
export type BusHandlers = {
  /** The connections opened or were lost. Before any message of a new connection. */
  onConnection?(isOpen: boolean): void
  /** Every event up to `position` has then been applied; undefined for an event of another version. */
  onEvent(event: InvalidationEvent, position: number | undefined): void
  /** Runs on a new connection before the reset. */
  beforeLease(opening: BusOpening): Promise<void>
  /** Listening began anew, so any event may have been missed. Redis may still hold the facts of those pending. */
  onReset(reset: BusReset): void
  /** Events are missing, or the database is in an older state: no fact that is cached in memory may be used again. */
  onGap(): void
  /** Redis no longer holds the facts of these events under the prefix of this epoch. */
  onConfirmed(eventIds: readonly string[], epoch: string): void
}
