import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { Connection, Route } from '../../platform/postgres.ts'
import { startThread, type Thread } from '../../platform/thread.ts'
import type { Bus } from './bus.ts'
import type { BusHandlers } from './bus-handlers.ts'
import type { FromThread, ThreadSettings, ToThread } from './bus-thread.ts'
import { createReceiver, type Prepared, type Receiver } from './receiver.ts'
import { createJournalReader, createSharedJournal, type JournalReader } from './shared-journal.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from './timing.ts'

type Dependencies = {
  readonly instance: string
  /** The file that the thread runs; see `createBusThread`. */
  readonly threadUrl: URL
  /** To listen. Must not go through a pooler in transaction mode: LISTEN belongs to one connection. */
  readonly connection: Connection
  /** The way that changes go. */
  readonly changesConnection: Connection
  readonly route: Route | undefined
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly log: Log
  readonly handlers: BusHandlers
  readonly acknowledge: boolean
  readonly timing?: LeaseTiming | undefined
}

const restartMs = 250
/** The clocks of the threads are compared until the answer came within this, since it is lost of each lease. */
const closeMs = 5
const compareAgainMs = 100
/** From then on it only shows that the thread is alive; one that is silent for so long is replaced. */
const everyMs = 5_000
const silentMs = 30_000
const leaveMs = 2_000

const afterTimeout = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms)
  return () => clearTimeout(timer)
}

type RunOptions = {
  readonly threadUrl: URL
  readonly settings: Omit<ThreadSettings, 'journal' | 'seen'>
  readonly receiver: Receiver
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly log: Log
  readonly onEnd: (reason: unknown) => void
}

export type ThreadedBus = {
  readonly bus: Bus
  /** Replaces the connections, for a server that does not answer on them. */
  restart(): void
  disconnect(): Promise<void>
}

/** One run of the thread. Each has its own journal. */
const startRun = ({ threadUrl, settings, receiver, clock, leaseClock, log, onEnd }: RunOptions) => {
  const journal = createSharedJournal()
  const { apply } = receiver
  const reader = createJournalReader({ journal, clock, leaseClock, timing: settings.timing, apply })
  const left = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<void>()
  let answeredMs = clock.monotonic()
  let isOver = false
  let timer: ReturnType<typeof setTimeout> | undefined

  const stop = () => {
    isOver = true
    clearTimeout(timer)
    left.resolve()
    ended.resolve()
  }
  const fail = (reason: unknown) => {
    if (isOver) return
    stop()
    thread.end()
    onEnd(reason)
  }
  const compareClocks = () => {
    if (clock.monotonic() - answeredMs > silentMs) return fail('it was silent')
    thread.post({ type: 'clock', ourMs: clock.monotonic() })
  }
  const onClock = (ourMs: number, theirMs: number) => {
    answeredMs = clock.monotonic()
    reader.onClock(ourMs, theirMs)
    clearTimeout(timer)
    timer = setTimeout(compareClocks, answeredMs - ourMs < closeMs ? everyMs : compareAgainMs)
  }
  const prepare = async (opening: Prepared) => {
    const { epoch } = opening
    const succeeded = await receiver.prepare(opening).then(
      () => true,
      (error) => {
        log.debug({ error }, 'a new connection of the bus could not be prepared')
        return false
      },
    )
    thread.post({ type: 'prepared', epoch, succeeded })
  }
  const sync = (): number => {
    if (isOver) return Number.NEGATIVE_INFINITY
    try {
      return reader.sync()
    } catch (error) {
      fail(error)
      return Number.NEGATIVE_INFINITY
    }
  }
  const onMessage = (message: FromThread): void => {
    reader.sleep()
    // The records that led to a message were appended before it was sent.
    sync()
    switch (message.type) {
      case 'wake':
        return
      case 'clock':
        onClock(message.ourMs, message.theirMs)
        return
      case 'prepare':
        void prepare(message.opening)
        return
      case 'left':
        left.resolve()
        return
      case 'ended':
        ended.resolve()
        return
      case 'log':
        log[message.level](message.fields, message.message)
        return
    }
  }
  const thread: Thread<ToThread> = startThread<ToThread, FromThread>({ url: threadUrl, onMessage, onEnd: fail })
  thread.post({ type: 'start', settings: { ...settings, journal, seen: receiver.newest() } })
  timer = setTimeout(compareClocks, compareAgainMs)
  compareClocks()

  return {
    sync,
    restart: () => {
      if (!isOver) thread.post({ type: 'restart' })
    },
    noLeaseReason: (): ReturnType<JournalReader['noLeaseReason']> => (isOver ? 'connecting' : reader.noLeaseReason()),
    leave: async () => {
      thread.post({ type: 'leave' })
      await left.promise
    },
    end: async () => {
      thread.post({ type: 'end' })
      await ended.promise
      stop()
      thread.end()
    },
  }
}

/**
 * A bus that receives in another thread, so that the lease is renewed and events are
 * acknowledged however busy the thread is that serves requests. Reading `lease.untilMs` applies everything received.
 *
 * Degrades: a thread that fails is replaced. Until then there is no lease, and memory is cleared.
 *
 * After `bus.close` it goes on listening, for changes that still wait for acknowledgements, until `disconnect`.
 */
export const createThreadedBus = (dependencies: Dependencies): ThreadedBus => {
  const { instance, threadUrl, clock, leaseClock, log, handlers, acknowledge } = dependencies
  const { connection, changesConnection, route, timing = defaultLeaseTiming } = dependencies
  const receiver = createReceiver({
    instance,
    clock,
    timing: deriveTiming(timing),
    handlers,
    acknowledge,
    after: afterTimeout,
    // Not in the middle of a decision.
    defer: queueMicrotask,
  })
  let isClosed = false
  let isEnded = false
  let restarting: ReturnType<typeof setTimeout> | undefined

  const start = () =>
    startRun({
      threadUrl,
      settings: { instance, connection, changesConnection, route, timing },
      receiver,
      clock,
      leaseClock,
      log,
      onEnd: (error) => {
        log.error({ event: 'bus.thread_ended', error }, 'the thread of the bus ended, and is started again')
        receiver.apply({ type: 'lost', wasOpen: true })
        receiver.apply({ type: 'gap', isOther: false })
        restarting = setTimeout(() => {
          if (!isEnded) run = start()
        }, restartMs)
      },
    })
  let run = start()
  const untilMs = () => (isClosed ? Number.NEGATIVE_INFINITY : run.sync())

  const { on, members, membersOfOtherVersion, counts, waits, registerCommit } = receiver
  const bus: Bus = {
    instance,
    lease: {
      get untilMs() {
        return untilMs()
      },
    },
    noLeaseReason: () => {
      const leaseUntilMs = untilMs()
      return leaseClock.monotonic() < leaseUntilMs ? undefined : run.noLeaseReason()
    },
    databaseIdentity: () => {
      run.sync()
      return receiver.databaseIdentity()
    },
    registerCommit,
    on,
    members: () => {
      run.sync()
      return members()
    },
    membersOfOtherVersion,
    counts,
    waits,
    close: async () => {
      // Before the others stop waiting for this instance.
      isClosed = true
      await Promise.race([run.leave(), new Promise((resolve) => setTimeout(resolve, leaveMs))])
    },
  }
  return {
    bus,
    restart: () => run.restart(),
    disconnect: async () => {
      isEnded = true
      clearTimeout(restarting)
      await Promise.race([run.end(), new Promise((resolve) => setTimeout(resolve, leaveMs))])
    },
  }
}
