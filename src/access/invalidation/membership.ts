import type { Clock } from '../../kit/clock.ts'
import type { BusTiming } from './timing.ts'

/**
 * The other instances that may hold a lease.
 *
 * Guarantee: an instance that holds a lease is a member here, or `unknownForMs` is positive. A heartbeat sent before we
 * began to listen never reached us, so until those leases are over there may be members we do not know.
 */
export const createMembership = (clock: Clock, { waitMs, membershipMs }: BusTiming) => {
  const members = new Map<string, { readonly atMs: number; readonly isOurVersion: boolean }>()
  let listeningSinceMs = Number.POSITIVE_INFINITY
  return {
    onListening: () => {
      listeningSinceMs = clock.monotonic()
    },
    onHeartbeat: (instance: string, isOurVersion: boolean) =>
      void members.set(instance, { atMs: clock.monotonic(), isOurVersion }),
    remove: (instance: string) => void members.delete(instance),
    list: (): string[] => {
      const sinceMs = clock.monotonic() - membershipMs
      for (const [instance, { atMs }] of members) if (atMs < sinceMs) members.delete(instance)
      return [...members.keys()]
    },
    /** An acknowledgement of such an instance proves nothing: its version may apply events differently. */
    isOfOtherVersion: (instance: string): boolean => members.get(instance)?.isOurVersion === false,
    unknownForMs: (): number => listeningSinceMs + waitMs - clock.monotonic(),
  }
}

export type Membership = ReturnType<typeof createMembership>
