import { createHash } from 'node:crypto'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { OnForged, Redis } from '../../platform/redis.ts'
import type { Mac } from '../../platform/secrets.ts'
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

/**
 * Notes the newest event of the database unless a newer one is noted, and returns the note before: the number and its tag. A note
 * that does not begin with a number is replaced, and returned so that the caller can report it.
 */
export const noteScript = {
  keys: 1,
  lua: `
      local noted = redis.pcall('GET', KEYS[1])
      if type(noted) == 'table' and noted.err then
        redis.call('UNLINK', KEYS[1])
        noted = ''
      end
      local events = tonumber(string.match(noted or '', '^%d+') or '-1')
      if events > tonumber(ARGV[1]) then return noted end
      local stored = redis.pcall('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[3], 'PX', ARGV[2])
      if type(stored) == 'table' and stored.err then
        if not string.find(stored.err, 'OOM', 1, true) then return stored end
        return noted or '${fullServer}'
      end
      return noted`,
} as const

/** How long a note outlives the last renewal. Longer than any entry. */
const noteTtlMs = 900_000

/** Why an instance does or does not read Redis. */
export const redisUses = [
  'used',
  'not_configured',
  'not_connected',
  'other_server',
  'other_secret',
  'not_registered',
] as const
export type RedisUse = (typeof redisUses)[number]

/**
 * Decides which Redis server this instance may use, and under which prefix.
 *
 * An event is removed when its keys are deleted from the chosen server. An instance that uses another server, or the entries
 * of another database, would keep what such an event made untrue. So the instances register their servers in Postgres, which
 * chooses one for all of them under a random epoch. The epoch, the identity of the database and the run id of the server
 * are part of the prefix.
 *
 * An instance that authenticates entries under another SECRET has other entries too, so a server counts as another one together
 * with the version of the entries and the id of the key. While SECRET is replaced, an instance that knows both secrets uses the key
 * that was chosen; one that does not know it runs without Redis until the others have ended.
 *
 * Guarantee: while there is a prefix, every event that was removed under its epoch was deleted from this server first. A new
 * connection of the bus ends the prefix until the instance has registered again, because events may have been removed
 * meanwhile. An event id lower than one noted in Redis shows that the database was set back: a new epoch is chosen. The note is
 * authenticated. One that is not is reported, and a new epoch is chosen as well.
 *
 * Degrades: an instance whose server is not the chosen one runs without Redis, and reports that. When no running instance
 * uses the chosen server, another one is chosen within ten seconds. Costs one statement each 2 s; no request waits for it.
 */
export type RedisRegistry = {
  /** Where entries are on the server with this run id, and what their key is; undefined: it must not be used. */
  placeFor(serverRunId: string): { readonly prefix: string; readonly keyId: string } | undefined
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
  /** Of the note, one for each secret, the current one first. Their ids are those of the keys of entries. */
  readonly macs: readonly [Mac, ...Mac[]]
  readonly onForged: OnForged
  readonly clock: Clock
  readonly log: Pick<Log, 'info' | 'warn'>
}

type Place = RedisChoice & { readonly prefix: string; readonly keyId: string; readonly registeredMs: number }

/** Of the entries. Version 3 authenticates them. */
const entryVersion = 3

/** What is registered as the server: its run id, the version of the entries and the id of their key. */
const serverName = (serverRunId: string, { keyId }: Mac): string => `${serverRunId}/${entryVersion}/${keyId}`
/** Also of what earlier versions register, which is the run id alone. */
const runIdOf = (server: string): string => server.split('/', 1)[0] ?? server

/** `velro:`, the version of the entries, the id of their key, and a hash of database, server and epoch. */
const prefixOf = ({ database, server, epoch }: RedisChoice, { keyId }: Mac): string =>
  `velro:${entryVersion}:${keyId}:${createHash('sha256').update(`${database} ${server} ${epoch}`).digest('base64url').slice(0, 16)}:`

/** Reports once why this instance runs without Redis, and that it uses it again. */
const createReports = ({ redis, clock, log }: Pick<Dependencies, 'redis' | 'clock' | 'log'>) => {
  let fullReported = false
  let other: { readonly sinceMs: number; readonly isSecret: boolean; reported: boolean } | undefined

  const reportFull = () => {
    if (fullReported) return
    fullReported = true
    log.warn(
      { event: 'redis.full' },
      'this instance runs without Redis, because its memory is full and it evicts nothing',
    )
  }

  const noteOther = (chosen: string | undefined) => {
    if (chosen === undefined) {
      if (other?.reported) log.info({ event: 'redis.shared_again' }, 'this instance uses Redis again')
      other = undefined
      return
    }
    const isSecret = runIdOf(chosen) === redis?.serverRunId
    if (other?.isSecret !== isSecret) other = { sinceMs: clock.monotonic(), isSecret, reported: false }
    if (other.reported || clock.monotonic() - other.sinceMs < reportAfterMs) return
    other.reported = true
    if (isSecret)
      log.warn(
        { event: 'redis.other_secret' },
        'this instance runs without Redis, because the others have another SECRET or version: it uses Redis once they have ended',
      )
    else
      log.warn(
        { event: 'redis.other_server' },
        'this instance runs without Redis, because the other instances use another Redis server: compare their REDIS_URL',
      )
  }

  return {
    reportFull,
    noteOther,
    get otherUse(): RedisUse | undefined {
      return other && (other.isSecret ? 'other_secret' : 'other_server')
    },
  }
}

export const createRedisRegistry = (dependencies: Dependencies): RedisRegistry => {
  const { redis, register, unregister, macs, onForged, clock } = dependencies
  const reports = createReports(dependencies)
  /** Under which this instance registers: that of the choice where it is known here, else the current one. */
  let mac: Mac = macs[0]
  let busIdentity: string | undefined
  /** Counts connections of the bus: a registration that began before is void. */
  let connectionEpoch = 0
  let place: Place | undefined
  let triedMs = Number.NEGATIVE_INFINITY
  let busy = false

  const ownServer = () => {
    if (redis === undefined) return noRedis
    return redis.serverRunId === undefined ? undefined : serverName(redis.serverRunId, mac)
  }
  const current = (): Place | undefined =>
    place !== undefined && place.server === ownServer() && clock.monotonic() - place.registeredMs < validMs
      ? place
      : undefined

  /** Whether the database was set back: Redis notes a newer event. Undefined: Redis did not answer. */
  const isSetBack = async ({ server, events, chosenMs }: RedisChoice, prefix: string): Promise<boolean | undefined> => {
    let noted: unknown
    const key = `${prefix}newest_event`
    const tagOf = (number: number | string) => mac.tag(`${key} ${number}`)
    const answered = await redis?.runBypassingBreaker(async ({ serverRunId, scripts }) => {
      if (serverName(serverRunId, mac) === server) noted = await scripts.note(key, events, noteTtlMs, tagOf(events))
    })
    if (!answered || noted === undefined) return undefined
    if (noted === fullServer) {
      reports.reportFull()
      return undefined
    }
    if (noted === null) return chosenMs > youngMs
    const [, number = '', tag = ''] = /^(\d{1,16}) (.+)$/.exec(String(noted)) ?? []
    if (mac.isTagged(`${key} ${number}`, tag)) return Number(number) > events
    onForged({ what: 'newest_event', key })
    return true
  }

  const registerNow = async (): Promise<void> => {
    const epoch = connectionEpoch
    triedMs = clock.monotonic()
    let outdated: string | undefined
    for (let tries = 1; tries <= 3; tries += 1) {
      const server = ownServer()
      const registeredMs = clock.monotonic()
      const choice = await register(server, outdated)
      if (connectionEpoch !== epoch || server !== ownServer()) return
      if (choice !== undefined && choice.server !== server && server !== undefined && redis !== undefined) {
        const known = macs.find((each) => choice.server === serverName(runIdOf(server), each))
        if (known !== undefined) {
          place = undefined
          mac = known
          continue
        }
        reports.noteOther(choice.server)
        place = undefined
        // The next choice is to be the current one.
        mac = macs[0]
        return
      }
      reports.noteOther(undefined)
      const isOurs = choice?.server === server && choice?.database.startsWith(`${busIdentity}-`)
      if (choice === undefined || !isOurs) {
        place = undefined
        return
      }
      const prefix = prefixOf(choice, mac)
      const setBack = redis === undefined ? false : await isSetBack(choice, prefix)
      if (connectionEpoch !== epoch || server !== ownServer() || setBack === undefined) return
      if (!setBack) {
        place = { ...choice, prefix, keyId: mac.keyId, registeredMs }
        return
      }
      place = undefined
      outdated = choice.epoch
    }
  }

  const check = () => {
    const isDue = clock.monotonic() - triedMs >= renewMs
    const isNew = current() === undefined && clock.monotonic() - triedMs >= checkMs && ownServer() !== undefined
    if (busy || busIdentity === undefined || !(isDue || (isNew && reports.otherUse === undefined))) return
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
    placeFor: (serverRunId) => {
      const valid = current()
      return valid?.server === serverName(serverRunId, mac) ? valid : undefined
    },
    get epoch() {
      return current()?.epoch
    },
    get use() {
      if (redis === undefined) return 'not_configured'
      if (redis.serverRunId === undefined) return 'not_connected'
      if (reports.otherUse !== undefined) return reports.otherUse
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
