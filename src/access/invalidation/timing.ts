/** The two durations that every other one of the bus derives from. */
export type LeaseTiming = {
  /** How long an instance may trust its memory after it sent the last heartbeat that came back. */
  readonly leaseMs: number
  /** How often an instance sends itself a heartbeat. Several must fit into a lease: one of them may be late. */
  readonly heartbeatMs: number
}

export const defaultLeaseTiming: LeaseTiming = { leaseMs: 1_000, heartbeatMs: 250 }

/** Every instance of a deployment must use the same timing: a writer waits for its own lease, not for that of others. */
export const deriveTiming = ({ leaseMs, heartbeatMs }: LeaseTiming) => ({
  leaseMs,
  heartbeatMs,
  /**
   * How long a writer waits for an instance that does not answer. A lease on a clock that is 10 % slow lasts 1/0.9 leases,
   * and a wait on a clock that is 10 % fast is over after 1/1.1 of its time: so the wait must be at least 1.1/0.9 = 1.23
   * leases. chrony corrects a clock by up to 8.3 % of its rate.
   */
  waitMs: leaseMs * 1.25,
  /** An instance is a member while its last heartbeat is no older. */
  membershipMs: 2 * leaseMs,
  /** A connection on which our own heartbeats have not come back for so long is replaced. */
  silenceMs: 3 * leaseMs,
  /** When the stale detector checks memory again: under a lease held then, every change that it saw has been applied. */
  secondCheckMs: 1.5 * leaseMs,
})

export type BusTiming = ReturnType<typeof deriveTiming>
