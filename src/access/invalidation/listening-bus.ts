import { randomBytes } from 'node:crypto'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import { listen } from '../../platform/notifications.ts'
import type { Connection, Sql } from '../../platform/postgres.ts'
import { type Bus, type BusHandlers, createBus } from './bus.ts'
import { readEvent, readPendingEvents } from './event-store.ts'
import type { LeaseTiming } from './timing.ts'
import { channelOf, commonChannel } from './topics.ts'

type Dependencies = {
  /** Must not go through a pooler: the bus holds one connection, and LISTEN belongs to it. */
  readonly connection: Connection
  readonly clock: Clock
  readonly log: Log
  readonly handlers: BusHandlers
  /** Runs on a new connection before the bus may hold a lease on it. */
  readonly beforeLease: (sql: Sql) => Promise<void>
  readonly acknowledge: boolean
  readonly timing: LeaseTiming | undefined
}

/**
 * A bus on its own Postgres connection, under a random instance name. After `bus.close` it goes on listening, for changes
 * that still wait for acknowledgements, until `disconnect`.
 */
export const createListeningBus = ({
  connection,
  log,
  beforeLease,
  ...options
}: Dependencies): { readonly bus: Bus; disconnect(): Promise<void> } => {
  const instance = randomBytes(9).toString('hex')
  let listening: Sql | undefined
  const connected = (): Sql => {
    if (listening === undefined) throw new Error('Not listening')
    return listening
  }
  const bus = createBus({
    ...options,
    instance,
    connection: {
      send: (channel, payload) => notifications.send(channel, payload),
      readEvent: (id) => readEvent(connected(), id),
      readPendingEvents: async () => {
        const sql = connected()
        await beforeLease(sql)
        return readPendingEvents(sql)
      },
      restart: () => notifications.restart(),
    },
  })
  const notifications = listen({
    connection,
    channels: [commonChannel, channelOf(instance)],
    onMessage: bus.connection.onMessage,
    onOpen: (sql) => {
      listening = sql
      bus.connection.onOpen()
    },
    onLost: () => {
      listening = undefined
      bus.connection.onLost()
    },
    log,
  })
  return { bus, disconnect: notifications.close }
}
