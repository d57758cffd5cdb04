import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import { listen } from '../../platform/notifications.ts'
import type { Connection, Route, Sql } from '../../platform/postgres.ts'
import { type Bus, type BusHandlers, createBus } from './bus.ts'
import { findDatabaseIdentity } from './database-identity-store.ts'
import { readEvent, readSnapshot, sendHeartbeat } from './event-store.ts'
import type { LeaseTiming } from './timing.ts'
import { channelOf, commonChannel } from './topics.ts'
import type { BusProblem } from './tracking.ts'

type Dependencies = {
  readonly instance: string
  /** To listen. Must not go through a pooler in transaction mode: LISTEN belongs to one connection. */
  readonly connection: Connection
  /** The way that changes go. */
  readonly changesConnection: Connection
  readonly route: Route | undefined
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly log: Log
  readonly handlers: Omit<BusHandlers, 'beforeLease'>
  /** Runs on a new connection before the bus may hold a lease on it. `isOther`: the one before led to another database. */
  readonly beforeLease: (sql: Sql, database: { readonly isOther: boolean }) => Promise<void>
  /** The connection that listens opened or was lost. Called before the bus learns of it. */
  readonly onConnection: (isOpen: boolean) => void
  readonly acknowledge: boolean
  readonly timing: LeaseTiming | undefined
}

const consequence = 'this instance decides by Postgres alone, and each of its changes waits for the lease of the others'
const problemTexts: Readonly<Record<BusProblem, string>> = {
  unreachable: `DATABASE_BUS_URL, or DATABASE_URL without it, must lead to the primary: the connection of the bus cannot be opened and is tried again, so ${consequence}`,
  pooler: `DATABASE_BUS_URL, or DATABASE_URL without it, must connect to Postgres directly or through a pooler in session mode: notifications do not arrive, so ${consequence}`,
  other_database: `DATABASE_BUS_URL must lead to the same database and server as DATABASE_URL: it leads to another one, so ${consequence}`,
  gap: 'an invalidation was lost, or the database went back to an older state: memory was cleared, and the connections of the bus are replaced',
  other_version: `the database has the functions of another version of this program, so ${consequence}`,
}

/**
 * A bus on its own Postgres connections, under the name of the instance. After `bus.close` it goes on listening, for changes
 * that still wait for acknowledgements, until `disconnect`.
 */
export const createListeningBus = ({
  instance,
  connection,
  changesConnection,
  route,
  log,
  handlers,
  beforeLease,
  onConnection,
  ...options
}: Dependencies): { readonly bus: Bus; disconnect(): Promise<void> } => {
  /** Why a connection could not be opened, while that is reported. */
  let unreachable: unknown
  const bus = createBus({
    ...options,
    instance,
    handlers: { ...handlers, beforeLease: (database) => beforeLease(notifications.sender(), database) },
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
    connection,
    senderConnection: changesConnection,
    route,
    channels: [commonChannel, channelOf(instance)],
    identify: (sql) => findDatabaseIdentity(sql, route?.schema),
    onMessage: bus.connection.onMessage,
    onOpen: (listeningTo) => {
      onConnection(true)
      bus.connection.onOpen(listeningTo)
    },
    onLost: () => {
      onConnection(false)
      bus.connection.onLost()
    },
    onUnreachable: (error) => {
      unreachable = error
      bus.connection.onUnreachable()
      unreachable = undefined
    },
    log,
  })
  return { bus, disconnect: notifications.close }
}
