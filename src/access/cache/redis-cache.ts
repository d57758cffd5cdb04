import { randomBytes } from 'node:crypto'
import { type Static, type TSchema, Type as t } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { Connection, OnForged, Redis } from '../../platform/redis.ts'
import { type Mac, macTagLength } from '../../platform/secrets.ts'
import { exactly } from '../policy/facts/definition.ts'
import {
  definitionOf,
  type Fact,
  type FactKey,
  type FactKind,
  factKinds,
  kindOf,
  partOf,
} from '../policy/facts/registry.ts'
import { noteScript, type RedisRegistry } from './redis-registry.ts'

/** Time to live of an entry, and the greatest age at which it is believed. */
export const redisTtlMs = 300_000
/** How far an entry may seem to lie in the future: twice the difference of clocks that `createSharedClock` leaves, and a second. */
const maxAheadMs = 2_000
/**
 * How long after a miss its value may be filled. A statement for a request ends after 2 s, one for a prefetch only after
 * 60 s. The fill of a longer load is refused, which costs a later miss.
 */
const nonceTtlMs = 10_000

export type RedisLookup = { readonly key: FactKey } & (
  | { readonly fact: Fact[FactKind]; readonly ageMs: number }
  /** A miss; its value may be filled under this nonce. `missedAtMs`: the wall clock before the lookup. */
  | { readonly nonce: string; readonly missedAtMs: number }
)

/**
 * The second tier, shared by all instances: facts in Redis, one hash each.
 *
 * A hash holds a nonce and, once filled, a value. The nonce is a fill token: the first miss creates it, and every miss until
 * the hash is deleted or expires takes the same one. A fill is a compare-and-set: a value read from Postgres is stored only
 * if the nonce is still the one taken before that read. An invalidation deletes the hash with its nonce, so a fill whose
 * read began earlier finds another nonce or none, and is refused.
 *
 * An invalidation deletes the whole that its key is part of, but never the parts of a whole, since it cannot name them. Such
 * an event stays pending until every entry from before it has expired (15 minutes), and until then those parts are not
 * looked up. Redis stores no negative entries: an absent fact is always a miss.
 *
 * Keys begin with a prefix for the version of the entries, the database, the Redis server and the epoch that the instances
 * share (see `RedisRegistry`). So the entries of another database, of a restored copy, and those that a restarted server
 * restored are never found. Without a prefix Redis is not used. Every command uses one key, as a cluster requires.
 *
 * A full server that evicts nothing refuses writes: entries in it are served, and all else is a miss that is not filled.
 *
 * An entry is authenticated under a key that is derived from SECRET, together with its name and the time at which it was missed,
 * before Postgres was read. So a client with write access to Redis can neither forge an entry nor move one to another name, and an
 * earlier entry that it puts back is served for at most `ttlMs` after it was true. The id of the key is part of the prefix: entries
 * under another SECRET are never found. An entry without a valid tag is therefore a forgery: a miss, deleted and reported.
 *
 * Kinds that are `memoryOnly` are neither stored nor looked up, because their facts hold personal data.
 *
 * Guarantee: losing any or all entries at any time costs only speed. An entry that does not match its schema is a miss.
 */
export type RedisCache = {
  /**
   * Takes at most the timeout of `run` (20 ms by default) for all keys together, and does not reject. A key that could not
   * be looked up, whose entry is invalid, or whose kind is not stored is left out: a miss whose value cannot be filled.
   */
  lookup(keys: readonly FactKey[]): Promise<readonly RedisLookup[]>
  /** Fire and forget. `missedAtMs` is the one of the lookup that returned the nonce; the fact may not be older. */
  fill(key: FactKey, fact: Fact[FactKind], nonce: string, missedAtMs: number): void
  /**
   * Deletes the keys, and the wholes they are part of. Resolves to whether no entry for them is left under the prefix of this
   * instance, which holds also where it has none; does not reject.
   */
  invalidate(keys: readonly FactKey[]): Promise<boolean>
  /** Under which deleted keys count as confirmed; undefined while this instance may not use Redis. */
  readonly epoch: string | undefined
  readonly counts: RedisCacheCounts
}

/** Since the start, in facts. */
export type RedisCacheCounts = {
  hits: number
  /** Includes invalid entries, and keys that could not be looked up. */
  misses: number
  /** Authentic entries that did not match their schema. They are deleted. */
  invalidEntries: number
  /** Authentic entries older than their time to live, or from the future: put back, or of a wrong clock. They are deleted. */
  outdatedEntries: number
  /** Fills whose nonce was no longer that of the key: the fact was invalidated, or its nonce expired or was evicted. */
  refusedFills: number
  /** Writes that the server refused because its memory is full. */
  fullServer: number
}

/** The first word of the error of a server whose memory is full. */
const full = 'OOM'

export const scripts = {
  /**
   * The value, or else the nonce, created if missing; neither where the server is full. A key of another type is deleted, or
   * it would fail its whole batch; then there is a third result.
   */
  lookup: {
    keys: 1,
    lua: `
      local found = redis.pcall('HMGET', KEYS[1], 'value', 'nonce')
      local isForeign = found.err ~= nil
      if isForeign then redis.call('UNLINK', KEYS[1])
      elseif found[1] or found[2] then return found end
      local stored = redis.pcall('HSET', KEYS[1], 'nonce', ARGV[1])
      if type(stored) == 'table' and stored.err then
        if string.find(stored.err, '${full}', 1, true) then return {false, false} end
        return stored
      end
      redis.call('PEXPIRE', KEYS[1], ARGV[2])
      return {false, ARGV[1], isForeign and 1 or nil}`,
  },
  /** Stores the value and returns 1 if the nonce is still that of the key, else 0; -1 where the server is full. */
  fill: {
    keys: 1,
    lua: `
      if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return 0 end
      local stored = redis.pcall('HSET', KEYS[1], 'value', ARGV[2])
      if type(stored) == 'table' and stored.err then
        if string.find(stored.err, '${full}', 1, true) then return -1 end
        return stored
      end
      redis.call('PEXPIRE', KEYS[1], ARGV[3])
      return 1`,
  },
  note: noteScript,
} as const

type ScriptName = keyof typeof scripts
export type CacheRedis = Pick<Redis<ScriptName>, 'run' | 'runBypassingBreaker' | 'serverRunId'>

const entryOf = (fact: TSchema) => exactly({ at: t.Number(), fact })
const isStored = (kind: FactKind): boolean => definitionOf(kind).memoryOnly !== true
const entryChecks = new Map(
  factKinds.filter(isStored).map((kind) => [kind, TypeCompiler.Compile(entryOf(definitionOf(kind).schema))]),
)

type Entry = Static<ReturnType<typeof entryOf>>

/** What is stored: the tag, then the entry as JSON. */
export const encodeEntry = (mac: Mac, name: string, entry: Entry): string => {
  const text = JSON.stringify(entry)
  return mac.tag(`${name} ${text}`) + text
}

export const parseEntry = (kind: FactKind, text: string): Entry | undefined => {
  try {
    const entry: unknown = JSON.parse(text)
    return entryChecks.get(kind)?.Check(entry) ? (entry as Entry) : undefined
  } catch {
    return undefined
  }
}

/** `forged`: no instance wrote it under this name. `invalid`: it does not match the schema of its kind. */
export const decodeEntry = (mac: Mac, name: string, kind: FactKind, stored: string): Entry | 'forged' | 'invalid' => {
  const text = stored.slice(macTagLength)
  // Before anything else: what is not authentic is not parsed.
  if (!mac.isTagged(`${name} ${text}`, stored.slice(0, macTagLength))) return 'forged'
  return parseEntry(kind, text) ?? 'invalid'
}

/** Keys deleted in one pipeline. */
const deleteBatch = 1_000

const random = () => randomBytes(12).toString('base64url')

/** Names of version 1, whose instances may run beside this one during a deployment. Their entries are only ever deleted. */
const oldNameOf = ({ serverRunId }: Connection<ScriptName>, key: FactKey) =>
  `velro:1:${serverRunId.slice(0, 12)}:${key}`

export const createRedisCache = ({
  redis,
  registry,
  macs,
  onForged,
  clock,
  log,
  onAnswered,
  ttlMs = redisTtlMs,
}: {
  redis: CacheRedis
  registry: Pick<RedisRegistry, 'placeFor' | 'epoch'>
  /** One for each secret that this instance knows. */
  macs: readonly Mac[]
  onForged: OnForged
  clock: Clock
  log: Pick<Log, 'warn'>
  /** Called for each lookup that was sent. */
  onAnswered?: ((ms: number, failed: boolean) => void) | undefined
  ttlMs?: number
}): RedisCache => {
  const counts: RedisCacheCounts = {
    hits: 0,
    misses: 0,
    invalidEntries: 0,
    outdatedEntries: 0,
    refusedFills: 0,
    fullServer: 0,
  }
  let fullReported = false

  const onFullServer = () => {
    counts.fullServer += 1
    if (fullReported) return
    fullReported = true
    log.warn(
      { event: 'redis.full' },
      'redis is full and evicts nothing, so new facts are not stored: set its maxmemory-policy to allkeys-lru',
    )
  }

  const invalidate = async (invalidated: readonly FactKey[]): Promise<boolean> => {
    const keys = [...new Set(invalidated.flatMap((key) => [key, partOf(key)?.whole ?? key]))]
    for (let from = 0; from < keys.length; from += deleteBatch) {
      const batch = keys.slice(from, from + deleteBatch)
      const done = await redis.runBypassingBreaker(async (connection) => {
        const place = registry.placeFor(connection.serverRunId)
        if (place === undefined) return
        await Promise.all(
          batch.flatMap((key) => [
            connection.client.unlink(place.prefix + key),
            connection.client.unlink(oldNameOf(connection, key)),
          ]),
        )
      })
      if (!done) return false
    }
    return true
  }

  /** Where entries are now, and how they are authenticated there. */
  const placeOn = ({ serverRunId }: Connection<ScriptName>) => {
    const place = registry.placeFor(serverRunId)
    const mac = macs.find(({ keyId }) => keyId === place?.keyId)
    return place === undefined || mac === undefined ? undefined : { prefix: place.prefix, mac }
  }

  /** An entry that may not be used, and is deleted. */
  const discard = (key: FactKey, why: 'forged' | 'invalid' | 'outdated'): RedisLookup[] => {
    counts.misses += 1
    if (why === 'forged') onForged({ what: 'fact', key })
    else counts[why === 'invalid' ? 'invalidEntries' : 'outdatedEntries'] += 1
    void invalidate([key])
    return []
  }

  type Reply = readonly [value: string | null, nonce: string | null, isForeign?: 1]
  type Place = { readonly prefix: string; readonly mac: Mac }
  const read = (key: FactKey, { prefix, mac }: Place, reply: Reply, missedAtMs: number): RedisLookup[] => {
    const [value, nonce, isForeign] = reply
    if (value !== null) {
      const entry = decodeEntry(mac, prefix + key, kindOf(key), value)
      if (typeof entry === 'string') return discard(key, entry)
      const ageMs = clock.now() - entry.at
      if (ageMs > ttlMs || ageMs < -maxAheadMs) return discard(key, 'outdated')
      counts.hits += 1
      return [{ key, fact: entry.fact as Fact[FactKind], ageMs: Math.max(0, ageMs) }]
    }
    if (isForeign) onForged({ what: 'fact', key })
    counts.misses += 1
    if (nonce !== null) return [{ key, nonce, missedAtMs }]
    onFullServer()
    return []
  }

  return {
    counts,
    invalidate,
    lookup: async (wanted) => {
      const keys = wanted.filter((key) => isStored(kindOf(key)))
      if (keys.length === 0) return []
      const missedAtMs = clock.now()
      let sentMs: number | undefined
      const found = await redis.run(async (connection) => {
        const place = placeOn(connection)
        if (place === undefined) return undefined
        sentMs = clock.monotonic()
        const replies = keys.map((key) => connection.scripts.lookup(place.prefix + key, random(), nonceTtlMs))
        return { place, replies: (await Promise.all(replies)) as readonly Reply[] }
      })
      if (sentMs !== undefined) onAnswered?.(clock.monotonic() - sentMs, found === undefined)
      if (found === undefined) {
        counts.misses += keys.length
        return []
      }
      return keys.flatMap((key, at) => read(key, found.place, found.replies[at] ?? [null, null], missedAtMs))
    },
    fill: (key, fact, nonce, missedAtMs) => {
      if (!isStored(kindOf(key))) return
      const livesMs = Math.round(ttlMs * (1 - 0.1 * Math.random()))
      void redis
        .run(async (connection) => {
          const place = placeOn(connection)
          if (place === undefined) return 0
          const name = place.prefix + key
          return connection.scripts.fill(name, nonce, encodeEntry(place.mac, name, { at: missedAtMs, fact }), livesMs)
        })
        .then((stored) => {
          if (stored === 0) counts.refusedFills += 1
          else if (stored === -1) onFullServer()
        })
    },
    get epoch() {
      return registry.epoch
    },
  }
}
