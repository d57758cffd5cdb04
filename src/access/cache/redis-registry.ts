import { createHash } from 'node:crypto'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { Redis } from '../../platform/redis.ts'
import { noRedis, type RedisChoice } from './redis-registry-store.ts'

/** How often an instance renews its registration. It counts for ten seconds in Postgres. */
const renewMs = 2_000
/** How often an instance checks whether it must register at once: the bus or Redis was connected anew. */
const checkMs = 100
/** A choice that could not be renewed for so long is no longer used. */
const validMs = 5_000
/** From then on another server in use is reported; a restart of Redis differs for a moment on each instance. */
const reportAfterMs = 5_000
/** A choice younger than this has perhaps not been noted in Redis yet. */
const youngMs = 10_000

/** The reply of the script `note` where the server is full and nothing is noted yet. */
export const fullServer = 'full'

/** Notes the newest event of the database unless a newer one is noted, and returns the one noted before. */
export const noteScript = {
  keys: 1,
  lua: `
      local noted = redis.call('GET', KEYS[1])
      if noted and tonumber(noted) > tonumber(ARGV[1]) then return noted end
      local stored = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
      if type(stored) == 'table' and stored.err then
        if not string.find(stored.err, 'OOM', 1, true) then return stored end
        return noted or '${fullServer}'
      end
      return noted`,
} as const

/** How long a note outlives the last renewal. Longer than any entry. */
const noteTtlMs = 900_000

/** Why an instance does or does not read Redis. */
export const redisUses = ['used', 'not_configured', 'not_connected', 'other_server', 'not_registered'] as const
export type RedisUse = (typeof redisUses)[number]

/**
 * Decides which Redis server this instance may use, and under which prefix.
 *
 * An event is removed when its keys are deleted from the chosen server. An instance that uses another server, or the entries
 * of another database, would keep what such an event made untrue. So the instances register their servers in Postgres, which
 * chooses one for all of them under a random epoch. The epoch, the identity of the database and the run id of the server
 * are part of the prefix.
 *
 * Guarantee: while there is a prefix, every event that was removed under its epoch was deleted from this server first. A new
 * connection of the bus ends the prefix until the instance has registered again, because events may have been removed
 * meanwhile. An event id lower than one noted in Redis shows that the database was set back: a new epoch is chosen.
 *
 * Degrades: an instance whose server is not the chosen one runs without Redis, and reports that. When no running instance
 * uses the chosen server, another one is chosen within ten seconds. Costs one statement each 2 s; no request waits for it.
 */
export type RedisRegistry = {
  /** The prefix of keys on the server with this run id; undefined: it must not be used. */
  prefixFor(serverRunId: string): string | undefined
  /** Under which this instance may confirm events; undefined: it must leave them to others. */
  readonly epoch: string | undefined
  readonly use: RedisUse
  /** The bus is connected anew, so events may have been missed. */
  onBusOpen(): void
  /** The identity of the database to which the bus is connected. Another database must not choose. */
  onBusIdentity(databaseIdentity: string): void
  close(): Promise<void>
}

type Dependencies = {
  /** Undefined: no Redis is configured. */
  readonly redis: Pick<Redis<'note'>, 'serverRunId' | 'runBypassingBreaker'> | undefined
  readonly register: (server: string | undefined, outdatedEpoch: string | undefined) => Promise<RedisChoice | undefined>
  readonly unregister: () => Promise<void>
  readonly clock: Clock
  readonly log: Pick<Log, 'info' | 'warn'>
}

type Place = RedisChoice & { readonly prefix: string; readonly registeredMs: number }

/** `velro:`, the version of the entries, and a hash of database, server and epoch. */
const prefixOf = ({ database, server, epoch }: RedisChoice): string =>
  `velro:2:${createHash('sha256').update(`${database} ${server} ${epoch}`).digest('base64url').slice(0, 16)}:`

export const createRedisRegistry = ({ redis, register, unregister, clock, log }: Dependencies): RedisRegistry => {
  let busIdentity: string | undefined
  /** Counts connections of the bus: a registration that began before is void. */
  let connectionEpoch = 0
  let place: Place | undefined
  let other: { readonly sinceMs: number; reported: boolean } | undefined
  let triedMs = Number.NEGATIVE_INFINITY
  let busy = false
  let fullReported = false

  const reportFull = () => {
    if (fullReported) return
    fullReported = true
    log.warn(
      { event: 'redis.full' },
      'this instance runs without Redis, because its memory is full and it evicts nothing',
    )
  }

  const ownServer = () => (redis === undefined ? noRedis : redis.serverRunId)
  const current = (): Place | undefined =>
    place !== undefined && place.server === ownServer() && clock.monotonic() - place.registeredMs < validMs
      ? place
      : undefined

  const noteOther = (isOther: boolean) => {
    if (!isOther) {
      if (other?.reported) log.info({ event: 'redis.shared_again' }, 'this instance uses Redis again')
      other = undefined
      return
    }
    other ??= { sinceMs: clock.monotonic(), reported: false }
    if (other.reported || clock.monotonic() - other.sinceMs < reportAfterMs) return
    other.reported = true
    log.warn(
      { event: 'redis.other_server' },
      'this instance runs without Redis, because the other instances use another Redis server: compare their REDIS_URL',
    )
  }

  /** Whether the database was set back: Redis notes a newer event. Undefined: Redis did not answer. */
  const isSetBack = async (choice: RedisChoice, prefix: string): Promise<boolean | undefined> => {
    let noted: unknown
    const answered = await redis?.runBypassingBreaker(async ({ serverRunId, scripts }) => {
      if (serverRunId === choice.server) noted = await scripts.note(`${prefix}newest_event`, choice.events, noteTtlMs)
    })
    if (!answered || noted === undefined) return undefined
    if (noted === fullServer) {
      reportFull()
      return undefined
    }
    return noted === null ? choice.chosenMs > youngMs : Number(noted) > choice.events
  }

  const registerNow = async (): Promise<void> => {
    const [epoch, server] = [connectionEpoch, ownServer()]
    triedMs = clock.monotonic()
    let outdated: string | undefined
    for (let tries = 1; tries <= 2; tries += 1) {
      const registeredMs = clock.monotonic()
      const choice = await register(server, outdated)
      if (connectionEpoch !== epoch || server !== ownServer()) return
      noteOther(choice !== undefined && server !== undefined && redis !== undefined && choice.server !== server)
      const isOurs = choice?.server === server && choice?.database.startsWith(`${busIdentity}-`)
      if (choice === undefined || !isOurs) {
        place = undefined
        return
      }
      const prefix = prefixOf(choice)
      const setBack = redis === undefined ? false : await isSetBack(choice, prefix)
      if (connectionEpoch !== epoch || server !== ownServer() || setBack === undefined) return
      if (!setBack) {
        place = { ...choice, prefix, registeredMs }
        return
      }
      place = undefined
      outdated = choice.epoch
    }
  }

  const check = () => {
    const isDue = clock.monotonic() - triedMs >= renewMs
    const isNew = current() === undefined && clock.monotonic() - triedMs >= checkMs && ownServer() !== undefined
    if (busy || busIdentity === undefined || !(isDue || (isNew && other === undefined))) return
    busy = true
    registerNow()
      // The choice stays as it is, until it is too old.
      .catch(() => {})
      .finally(() => {
        busy = false
      })
  }
  const timer = setInterval(check, checkMs)

  return {
    prefixFor: (serverRunId) => {
      const valid = current()
      return valid?.server === serverRunId ? valid.prefix : undefined
    },
    get epoch() {
      return current()?.epoch
    },
    get use() {
      if (redis === undefined) return 'not_configured'
      if (redis.serverRunId === undefined) return 'not_connected'
      if (other !== undefined) return 'other_server'
      return current() === undefined ? 'not_registered' : 'used'
    },
    onBusOpen: () => {
      connectionEpoch += 1
      busIdentity = undefined
      place = undefined
    },
    onBusIdentity: (databaseIdentity) => {
      busIdentity = databaseIdentity
      triedMs = Number.NEGATIVE_INFINITY
      check()
    },
    close: async () => {
      clearInterval(timer)
      connectionEpoch += 1
      await unregister().catch(() => {})
    },
  }
}
