import { createLeaseClock, systemClock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import { listen } from '../../platform/notifications.ts'
import type { Connection, Route, Sql } from '../../platform/postgres.ts'
import type { FlagValues } from '../cache/tier-switches.ts'
import { findDatabaseIdentity } from './database-identity-store.ts'
import { readEvent, readSnapshot, sendHeartbeat } from './event-store.ts'
import { createLeaseKeeper, type LeaseKeeper } from './lease-keeper.ts'
import type { Prepared } from './receiver.ts'
import { createJournalWriter, type SharedJournal } from './shared-journal.ts'
import { deriveTiming, type LeaseTiming } from './timing.ts'
import { channelOf, commonChannel, type DatabasePosition } from './topics.ts'
import type { BusProblem } from './tracking.ts'

/** What the thread of the bus is started with. */
export type ThreadSettings = {
  readonly instance: string
  readonly connection: Connection
  readonly changesConnection: Connection
  readonly route: Route | undefined
  readonly timing: LeaseTiming
  readonly journal: SharedJournal
  readonly seen: DatabasePosition | undefined
}

/** From the thread that decides. */
export type ToThread =
  | { readonly type: 'start'; readonly settings: ThreadSettings }
  /** Answered at once, with the time here. */
  | { readonly type: 'clock'; readonly ourMs: number }
  | { readonly type: 'prepared'; readonly epoch: number; readonly succeeded: boolean }
  /** Replaces the connections, which Postgres does not answer on. */
  | { readonly type: 'restart' }
  /** Gives up the lease and leaves the other instances. Memory is no longer trusted when it is sent. */
  | { readonly type: 'leave' }
  /** Closes the connections. */
  | { readonly type: 'end' }

/** To the thread that decides. */
export type FromThread =
  | { readonly type: 'wake' }
  | { readonly type: 'clock'; readonly ourMs: number; readonly theirMs: number }
  | { readonly type: 'prepare'; readonly opening: Prepared }
  | { readonly type: 'left' }
  | { readonly type: 'ended' }
  | { readonly type: 'log'; readonly level: keyof Log; readonly fields: object; readonly message: string }

const consequence = 'this instance decides by Postgres alone, and each of its changes waits for the lease of the others'
const problemTexts: Readonly<Record<BusProblem, string>> = {
  unreachable: `DATABASE_BUS_URL, or DATABASE_URL without it, must lead to the primary: the connection of the bus cannot be opened and is tried again, so ${consequence}`,
  pooler: `DATABASE_BUS_URL, or DATABASE_URL without it, must connect to Postgres directly or through a pooler in session mode: notifications do not arrive, so ${consequence}`,
  other_database: `DATABASE_BUS_URL must lead to the same database and server as DATABASE_URL: it leads to another one, so ${consequence}`,
  gap: 'an invalidation was lost, or the database went back to an older state: memory was cleared, and the connections of the bus are replaced',
  other_version: `the database has the functions of another version of this program, so ${consequence}`,
}

type ThreadOptions = {
  readonly post: (message: FromThread) => void
  /** Reads the switches on a new connection, before a lease can begin on it. */
  readonly readSwitches: (sql: Sql) => Promise<FlagValues>
}

type Post = ThreadOptions['post']

const createThreadLog = (post: Post): Log => {
  const at = (level: keyof Log) => (fields: object, message: string) => post({ type: 'log', level, fields, message })
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

/** The connections of the bus and the keeper of the lease. */
const start = (settings: ThreadSettings, { post, readSwitches }: ThreadOptions) => {
  const { instance, journal, route, timing, seen } = settings
  const clock = systemClock
  const leaseClock = createLeaseClock(systemClock)
  const log = createThreadLog(post)
  const writer = createJournalWriter({ journal, clock, leaseClock, wake: () => post({ type: 'wake' }) })
  /** Why a connection could not be opened, while that is reported. */
  let unreachable: unknown
  const preparing = new Map<number, PromiseWithResolvers<void>>()

  const keeper: LeaseKeeper = createLeaseKeeper({
    instance,
    clock,
    leaseClock,
    timing: deriveTiming(timing),
    seen,
    append: writer.append,
    isDrained: writer.isDrained,
    prepare: async (opening) => {
      const switches = await readSwitches(notifications.sender())
      const prepared = Promise.withResolvers<void>()
      preparing.set(opening.epoch, prepared)
      post({ type: 'prepare', opening: { ...opening, switches } })
      await prepared.promise
    },
    onLease: writer.setLease,
    onReason: writer.setReason,
    onProblem: (reason) => {
      if (reason !== undefined) log.warn({ event: 'bus.no_lease', reason, error: unreachable }, problemTexts[reason])
      else log.info({ event: 'bus.lease_held' }, 'the bus works again: this instance holds its lease')
    },
    connection: {
      send: (channel, payload) => notifications.send(channel, payload),
      sendHeartbeat: async (heartbeatId) => sendHeartbeat(notifications.sender(), instance, heartbeatId),
      readEvent: async (id) => readEvent(notifications.sender(), id),
      readSnapshot: async () => readSnapshot(notifications.sender()),
      restart: () => notifications.restart(),
    },
  })
  const notifications = listen({
    connection: settings.connection,
    senderConnection: settings.changesConnection,
    route,
    channels: [commonChannel, channelOf(instance)],
    identify: (sql) => findDatabaseIdentity(sql, route?.schema),
    onMessage: keeper.onMessage,
    onOpen: keeper.onOpen,
    onLost: keeper.onLost,
    onUnreachable: (error) => {
      unreachable = error
      keeper.onUnreachable()
      unreachable = undefined
    },
    log,
  })
  return {
    onPrepared: (epoch: number, succeeded: boolean) => {
      const prepared = preparing.get(epoch)
      preparing.delete(epoch)
      if (succeeded) prepared?.resolve()
      else prepared?.reject(new Error('The connection could not be prepared'))
    },
    restart: notifications.restart,
    leave: keeper.close,
    end: notifications.close,
  }
}

/**
 * What runs in the thread of the bus: it listens, sends heartbeats, keeps the lease and acknowledges, so that none of these
 * waits for requests. Returns the handler of its messages.
 */
export const createBusThread = (options: ThreadOptions) => {
  const { post } = options
  let running: ReturnType<typeof start> | undefined
  return (message: ToThread): void => {
    switch (message.type) {
      case 'start':
        running = start(message.settings, options)
        return
      case 'clock':
        post({ type: 'clock', ourMs: message.ourMs, theirMs: systemClock.monotonic() })
        return
      case 'prepared':
        running?.onPrepared(message.epoch, message.succeeded)
        return
      case 'restart':
        running?.restart()
        return
      case 'leave':
        void running?.leave().finally(() => post({ type: 'left' }))
        return
      case 'end':
        void running?.end().finally(() => post({ type: 'ended' }))
        return
    }
  }
}
