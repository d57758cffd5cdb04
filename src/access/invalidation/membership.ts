import type { Clock } from '../../kit/clock.ts'
import type { BusTiming } from './timing.ts'

/**
 * The other instances that may hold a lease.
 *
 * Guarantee: an instance that holds a lease is a member here, or `unknownForMs` is positive. A heartbeat sent before we
 * began to listen never reached us, so until those leases are over there may be members we do not know.
 */
export const createMembership = (clock: Clock, { waitMs, membershipMs }: BusTiming) => {
  const lastHeartbeatMs = new Map<string, number>()
  let listeningSinceMs = Number.POSITIVE_INFINITY
  return {
    onListening: () => {
      listeningSinceMs = clock.monotonic()
    },
    onHeartbeat: (instance: string) => void lastHeartbeatMs.set(instance, clock.monotonic()),
    remove: (instance: string) => void lastHeartbeatMs.delete(instance),
    list: (): string[] => {
      const sinceMs = clock.monotonic() - membershipMs
      for (const [instance, atMs] of lastHeartbeatMs) if (atMs < sinceMs) lastHeartbeatMs.delete(instance)
      return [...lastHeartbeatMs.keys()]
    },
    unknownForMs: (): number => listeningSinceMs + waitMs - clock.monotonic(),
  }
}

export type Membership = ReturnType<typeof createMembership>
