import type { Clock } from '../../kit/clock.ts'
import type { BusSnapshot } from './bus-handlers.ts'
import type { BusRecord } from './bus-records.ts'
import type { InvalidationEvent } from './model.ts'
import type { BusTiming } from './timing.ts'
import { channelOf, commonChannel, type DatabasePosition, dispatch, encodeMessage, isOfKeeper } from './topics.ts'
import { type BusProblem, createTracking, type NoLeaseReason } from './tracking.ts'

/** How many event ids go into one acknowledgement: Postgres refuses a notification of 8,000 bytes. */
const maxAcknowledged = 300

/**
 * What the bus needs of Postgres. It sends and reads on the way that changes go, and never on the connection that listens:
 * through a pooler our own notifications would then come back, and those of no other instance.
 */
export type BusConnection = {
  send(channel: string, payload: string): Promise<void>
  /** In one statement: a heartbeat with the identity and the position of the database. Resolves once it is committed. */
  sendHeartbeat(heartbeatId: string): Promise<void>
  /** The event from its row, for one whose keys did not fit into a notification; undefined: the row is gone. */
  readEvent(id: string): Promise<InvalidationEvent | undefined>
  readSnapshot(): Promise<BusSnapshot>
  /** Replaces silent connections. */
  restart(): void
}

type Options = {
  readonly instance: string
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly timing: BusTiming
  readonly connection: BusConnection
  /** The newest state of the database that an earlier keeper of this instance has seen. */
  readonly seen?: DatabasePosition | undefined
  /** Passes a record on, in order. False: there is no room for it. */
  readonly append: (record: BusRecord) => boolean
  /** Whether everything passed on was applied. */
  readonly isDrained: () => boolean
  /** Runs on a new connection before the reset. */
  readonly prepare: (opening: { epoch: number; isOther: boolean; snapshot: BusSnapshot }) => Promise<void>
  /** The lease was renewed or ended. Everything that it depends on was passed on. */
  readonly onLease: (untilMs: number) => void
  readonly onReason: (reason: NoLeaseReason) => void
  readonly onProblem: (reason: BusProblem | undefined) => void
}

/** Acknowledges events to their writers. Events come in bursts: all of one turn go to a writer in one message. */
const createAcknowledger = (send: (writer: string, eventIds: readonly string[]) => void) => {
  let pendingAcks: Map<string, string[]> | undefined
  const flush = () => {
    const due = pendingAcks ?? new Map<string, string[]>()
    pendingAcks = undefined
    for (const [writer, eventIds] of due) {
      while (eventIds.length > 0) send(writer, eventIds.splice(0, maxAcknowledged))
    }
  }
  return (writer: string, eventId: string) => {
    if (pendingAcks === undefined) {
      pendingAcks = new Map()
      queueMicrotask(flush)
    }
    const eventIds = pendingAcks.get(writer)
    if (eventIds === undefined) pendingAcks.set(writer, [eventId])
    else eventIds.push(eventId)
  }
}

/** Handles payloads in order of arrival. While paused, they queue up. */
const createInbox = (handle: (payload: string) => void) => {
  const backlog: string[] = []
  let isPaused = false
  return {
    receive: (payload: string) => {
      if (isPaused) backlog.push(payload)
      else handle(payload)
    },
    pause: () => {
      isPaused = true
    },
    /** Also drops the backlog, which belongs to an earlier connection. */
    reset: () => {
      isPaused = true
      backlog.length = 0
    },
    /** Handles the queued payloads until one of them pauses again. */
    drainBacklog: () => {
      isPaused = false
      let handled = 0
      for (const payload of backlog) {
        handled += 1
        handle(payload)
        if (isPaused) break
      }
      backlog.splice(0, handled)
    },
  }
}

/**
 * The side of the bus that receives: passes messages on in their order, keeps the lease and acknowledges events. It does no
 * I/O itself: messages and clocks go in; records, a lease and messages come out.
 *
 * Guarantee: an event is passed on before it is acknowledged, and before a heartbeat that follows it renews the lease.
 * Degrades: a record for which there is no room counts as a lost event: the lease ends, and begins anew on new connections
 * once everything passed on was applied.
 */
export const createLeaseKeeper = (options: Options) => {
  const { instance, clock, leaseClock, timing, connection, append, isDrained, prepare } = options
  let closed = false
  let isFull = false
  /** Counts connections: a result that belongs to an earlier one is dropped. */
  let connectionEpoch = 0

  const send = (channel: string, payload: string) => connection.send(channel, payload).catch(() => {})
  const pass = (record: BusRecord): boolean => {
    if (isFull) return false
    isFull = !append(record)
    if (isFull) tracking.onOverflow()
    return !isFull
  }
  const tracking = createTracking({
    clock,
    leaseClock,
    timing,
    seen: options.seen,
    sendHeartbeat: (heartbeatId) => connection.sendHeartbeat(heartbeatId),
    onGap: (isOther) => void pass({ type: 'gap', isOther }),
    restart: () => connection.restart(),
    onLease: options.onLease,
    onReason: options.onReason,
    onProblem: options.onProblem,
  })
  const acknowledgeTo = createAcknowledger(
    (writer, eventIds) => void send(channelOf(writer), encodeMessage('acknowledgement', { instance, eventIds })),
  )
  /** Acknowledges an event as soon as it is passed on: memory cannot be used without applying it. */
  const passEvent = (record: BusRecord, id: string, writer: string | undefined) => {
    if (pass(record) && writer !== undefined && writer !== instance) acknowledgeTo(writer, id)
  }

  /** Later messages wait, so that no heartbeat sent after this event renews the lease before it is passed on. */
  const readAndPass = async (id: string, writer: string | undefined, position: number | undefined) => {
    const epoch = connectionEpoch
    inbox.pause()
    const event = await connection.readEvent(id).catch(() => undefined)
    if (connectionEpoch !== epoch) return
    passEvent({ type: 'stored_event', id, writer, position, keys: event?.keys ?? 'everything' }, id, writer)
    inbox.drainBacklog()
  }

  const onOwnHeartbeat = (heartbeatId: string, seen: DatabasePosition | undefined) => {
    const epoch = connectionEpoch
    const wasProven = tracking.isProven()
    tracking.onOwnHeartbeat(heartbeatId, seen)
    if (!wasProven && tracking.isProven() && connectionEpoch === epoch) pass({ type: 'proven' })
  }

  const handle = (payload: string): void => {
    const message = { type: 'message', payload } as const
    if (!isOfKeeper(payload)) return void pass(message)
    dispatch(
      {
        event: ({ id, writer, position, keys }) => {
          if (!tracking.onEvent(position)) return
          if (keys === 'stored') void readAndPass(id, writer, position)
          else passEvent(message, id, writer)
        },
        heartbeat: ({ instance: of, heartbeatId, seen }) => {
          if (of === instance) onOwnHeartbeat(heartbeatId, seen)
          else pass(message)
        },
      },
      payload,
    )
  }
  const inbox = createInbox(handle)

  const open = async (listeningTo: string | undefined) => {
    if (closed) return
    connectionEpoch += 1
    const epoch = connectionEpoch
    const isCurrent = () => connectionEpoch === epoch && !closed
    // A message that arrives during the reads waits behind them.
    inbox.reset()
    tracking.start(epoch)
    if (isFull && !isDrained()) return connection.restart()
    isFull = false
    pass({ type: 'open' })
    try {
      const snapshot = await connection.readSnapshot()
      if (!isCurrent()) return
      const database = tracking.compare(snapshot, listeningTo)
      if (database === 'other') return
      await prepare({ epoch, isOther: database === 'replaced', snapshot })
      if (!isCurrent()) return
      pass({ type: 'reset', epoch, isContinued: tracking.open(snapshot) })
    } catch {
      if (connectionEpoch !== epoch) return
      tracking.onUnreachable()
      connection.restart()
      return
    }
    if (!isCurrent()) return
    inbox.drainBacklog()
    tracking.sendHeartbeat()
  }

  return {
    lease: tracking.lease,
    noLeaseReason: tracking.noLeaseReason,
    onMessage: inbox.receive,
    onOpen: (listeningTo: string | undefined) => void open(listeningTo),
    onLost: () => {
      connectionEpoch += 1
      inbox.reset()
      pass({ type: 'lost', wasOpen: tracking.onLost() })
    },
    onUnreachable: tracking.onUnreachable,
    close: async () => {
      closed = true
      // The others stop waiting for us, so a heartbeat under way must not renew the lease.
      tracking.close()
      await send(commonChannel, encodeMessage('leave', { instance }))
    },
  }
}

export type LeaseKeeper = ReturnType<typeof createLeaseKeeper>
