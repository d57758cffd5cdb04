import type { Clock } from '../../kit/clock.ts'
import { LogHistogram } from '../../kit/log-histogram.ts'
import type { Membership } from './membership.ts'
import type { BusTiming } from './timing.ts'

/** The wait of a writer for the other instances to apply its change. Registered before the commit. */
export type CommitWait = {
  /**
   * Call it once the commit is confirmed. Resolves when every member has acknowledged the event, or when the lease of each
   * that has not is over: at the latest 1.25 leases after this call.
   */
  acknowledgedByAll(): Promise<void>
  /** The change was not committed. */
  abandon(): void
}

type PendingAcks = {
  readonly acknowledged: Set<string>
  /** Undefined until our own event has come back. */
  missing: Set<string> | undefined
  readonly release: () => void
}

type Dependencies = {
  readonly clock: Clock
  readonly timing: BusTiming
  readonly membership: Membership
  /** Whether what arrives here is known to be complete. Otherwise heartbeats of members may be missing. */
  readonly isProven: () => boolean
  /** False: no change waits, and the promise is not kept. */
  readonly acknowledge: boolean
  /** Calls back after a delay; the function it returns cancels that. */
  readonly after: (ms: number, callback: () => void) => () => void
}

/** Stands for the members we do not know yet; no instance has an empty name. */
const unknownMembers = ''

/**
 * Writers of this instance that wait for acknowledgements.
 *
 * The members to wait for are looked up when our own event comes back: every heartbeat sent before it has arrived
 * too, so no instance that may hold an older lease is left out. A member of another version cannot acknowledge.
 */
export const createCommitWaits = ({ clock, timing, membership, isProven, acknowledge, after }: Dependencies) => {
  const waits = new Map<string, PendingAcks>()
  const counts = { commits: 0, acknowledged: 0, lapsed: 0 }
  const durationsMs = new LogHistogram()

  const releaseIfComplete = ({ missing, release }: PendingAcks) => {
    if (missing?.size === 0) release()
  }

  return {
    counts: counts as Readonly<typeof counts>,
    durationsMs,
    register: (eventId: string): CommitWait => {
      const { promise: released, resolve: release } = Promise.withResolvers<void>()
      waits.set(eventId, { acknowledged: new Set(), missing: undefined, release })
      return {
        acknowledgedByAll: async () => {
          counts.commits += 1
          if (acknowledge) {
            const sinceMs = clock.monotonic()
            let outcome: 'acknowledged' | 'lapsed' = 'acknowledged'
            const cancel = after(timing.waitMs, () => {
              outcome = 'lapsed'
              release()
            })
            await released
            cancel()
            counts[outcome] += 1
            durationsMs.record(clock.monotonic() - sinceMs)
          }
          waits.delete(eventId)
        },
        abandon: () => void waits.delete(eventId),
      }
    },
    onOwnEvent: (eventId: string) => {
      const wait = waits.get(eventId)
      if (wait === undefined) return
      const missing = new Set(membership.list().filter((member) => !wait.acknowledged.has(member)))
      wait.missing = missing
      const unknownForMs = membership.unknownForMs()
      if (!isProven()) missing.add(unknownMembers)
      else if (unknownForMs > 0) {
        missing.add(unknownMembers)
        after(unknownForMs, () => {
          missing.delete(unknownMembers)
          releaseIfComplete(wait)
        })
      }
      releaseIfComplete(wait)
    },
    /** An acknowledgement may arrive before our own event does. */
    onAcknowledgement: (instance: string, eventIds: readonly string[]) => {
      if (membership.isOfOtherVersion(instance)) return
      for (const eventId of eventIds) {
        const wait = waits.get(eventId)
        if (wait === undefined) continue
        wait.acknowledged.add(instance)
        wait.missing?.delete(instance)
        releaseIfComplete(wait)
      }
    },
    onLeave: (instance: string) => {
      for (const wait of waits.values()) {
        wait.missing?.delete(instance)
        releaseIfComplete(wait)
      }
    },
  }
}
