import type { DatabasePosition } from './topics.ts'

/**
 * Which invalidation events of a database were received: positions have no gaps, so a missing one was lost.
 *
 * Guarantee: `isComplete(position)` only if every event up to that position was received on this connection, or was
 * committed before its snapshot. A position lower than one seen before means another state of the database, such as a
 * restored backup.
 */
/** `seen`: the newest state that was seen before, if any. */
export const createPositions = (seen?: DatabasePosition) => {
  /** Undefined before the first snapshot. */
  let identity = seen?.identity
  let highest = seen?.position ?? 0
  /** Position of the newest event received on this connection; undefined before the first one. */
  let lastReceived: number | undefined
  let snapshotPosition = 0
  const received = () => Math.max(snapshotPosition, lastReceived ?? 0)

  return {
    get identity() {
      return identity
    },
    /** Every event up to this position was received. */
    received,
    /**
     * Begins on a new connection with a snapshot taken after listening began. Returns whether it is the database of the
     * connection before, in a state no older than the one seen then; true on the first connection.
     */
    open: (snapshot: DatabasePosition): boolean => {
      const isContinued =
        identity === undefined || (identity === snapshot.identity && snapshot.position >= Math.max(highest, received()))
      identity = snapshot.identity
      highest = snapshot.position
      snapshotPosition = snapshot.position
      lastReceived = undefined
      return isContinued
    },
    /** Returns whether the event is the next one. The first ones of a connection may be older than its snapshot. */
    onEvent: (position: number): boolean => {
      const isNext = lastReceived === undefined ? position <= snapshotPosition + 1 : position === lastReceived + 1
      if (isNext) {
        lastReceived = position
        highest = Math.max(highest, position)
      }
      return isNext
    },
    /**
     * Judges what one of our heartbeats saw of the database, when everything notified before it was received.
     * `receivedWhenSent`: what `received` returned when it was sent. Every heartbeat follows the events up to its position.
     */
    check: (seen: DatabasePosition, receivedWhenSent: number): 'complete' | 'gap' | 'other_database' => {
      if (seen.identity !== identity) return 'other_database'
      if (seen.position > received() || seen.position < receivedWhenSent) return 'gap'
      // The events that the snapshot covers were notified before the heartbeat: none can follow any more.
      lastReceived = received()
      return 'complete'
    },
  }
}
