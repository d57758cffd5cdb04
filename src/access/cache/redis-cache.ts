import { randomBytes } from 'node:crypto'
import { type Static, type TSchema, Type as t } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import type { Clock } from '../../kit/clock.ts'
import type { Connection, Redis } from '../../platform/redis.ts'
import { exactly } from '../policy/facts/definition.ts'
import {
  type Fact,
  type FactKey,
  type FactKind,
  factDefinitions,
  factKinds,
  kindOf,
  partOf,
} from '../policy/facts/registry.ts'

/** How long what is known of a thing stays in the outer cache. */
export const redisTtlMs = 300_000
/** How long after asking in vain somebody may still write back. Longer than any statement may take. */
const nonceTtlMs = 10_000

export type RedisLookup = { readonly key: FactKey } & (
  | { readonly fact: Fact[FactKind]; readonly ageMs: number }
  /** Not there; may be kept under this nonce. */
  | { readonly nonce: string }
)

/**
 * The second tier, shared by all instances: facts in Redis, one hash for each.
 *
 * A hash has a nonce, made by whoever first asks in vain, and a value. What was read from Postgres is written back only
 * while the nonce is the one that was taken before reading; forgetting removes the hash, nonce and all, so a write-back
 * that began before it finds another nonce or none. Keys begin with the incarnation of the server, so what a restarted
 * one restored is not found. Every command touches one key, which is what a cluster wants.
 *
 * Promise: losing any or all of it at any time costs speed only. What does not fit its schema is not there. `look` takes
 * no longer than the deadline of the connection and never fails; `keep` waits for nothing; `forget` says whether all of
 * it is gone for certain.
 */
export type RedisCache = {
  lookup(keys: readonly FactKey[]): Promise<readonly RedisLookup[]>
  writeBack(key: FactKey, fact: Fact[FactKind], nonce: string): void
  /** What one of them is part of is forgotten with it. */
  invalidate(keys: readonly FactKey[]): Promise<boolean>
  /** Which server holds it at the moment, if any. */
  readonly serverRunId: string | undefined
  readonly counts: RedisCacheCounts
}

export type RedisCacheCounts = { hits: number; misses: number; unreadable: number; refused: number }

export const scripts = {
  /** The value, or else the nonce that is there or is made now. What is no hash would fail all that is asked with it. */
  look: {
    keys: 1,
    lua: `
      local found = redis.pcall('HMGET', KEYS[1], 'value', 'nonce')
      if found.err then redis.call('UNLINK', KEYS[1])
      elseif found[1] or found[2] then return found end
      redis.call('HSET', KEYS[1], 'nonce', ARGV[1])
      redis.call('PEXPIRE', KEYS[1], ARGV[2])
      return {false, ARGV[1]}`,
  },
  keep: {
    keys: 1,
    lua: `
      if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return 0 end
      redis.call('HSET', KEYS[1], 'value', ARGV[2])
      redis.call('PEXPIRE', KEYS[1], ARGV[3])
      return 1`,
  },
} as const

type ScriptName = keyof typeof scripts
export type CacheRedis = Pick<Redis<ScriptName>, 'run' | 'runBypassingBreaker' | 'serverRunId'>

const entryOf = (fact: TSchema) => exactly({ at: t.Number(), fact })
const entryChecks = new Map(
  factKinds.map((kind) => [kind, TypeCompiler.Compile(entryOf(factDefinitions[kind].schema))]),
)

type Entry = Static<ReturnType<typeof entryOf>>

const parseEntry = (key: FactKey, text: string): Entry | undefined => {
  try {
    const entry: unknown = JSON.parse(text)
    return entryChecks.get(kindOf(key))?.Check(entry) ? (entry as Entry) : undefined
  } catch {
    return undefined
  }
}

/** How many keys are forgotten in one go. */
const forgetBatch = 1_000

const random = () => randomBytes(12).toString('base64url')

export const createRedisCache = ({
  redis,
  clock,
  ttlMs = redisTtlMs,
}: {
  redis: CacheRedis
  clock: Clock
  ttlMs?: number
}): RedisCache => {
  const counts: RedisCacheCounts = { hits: 0, misses: 0, unreadable: 0, refused: 0 }
  const nameOf = ({ serverRunId }: Connection<ScriptName>, key: FactKey) => `velro:1:${serverRunId.slice(0, 12)}:${key}`

  const forget = async (touched: readonly FactKey[]): Promise<boolean> => {
    const keys = [...new Set(touched.flatMap((key) => [key, partOf(key)?.whole ?? key]))]
    for (let from = 0; from < keys.length; from += forgetBatch) {
      const batch = keys.slice(from, from + forgetBatch)
      const done = await redis.runBypassingBreaker((connection) =>
        Promise.all(batch.map((key) => connection.client.unlink(nameOf(connection, key)))),
      )
      if (!done) return false
    }
    return true
  }

  const read = (key: FactKey, reply: unknown): RedisLookup[] => {
    const [value, nonce] = reply as [string | null, string | null]
    const entry = value === null ? undefined : parseEntry(key, value)
    if (entry !== undefined) {
      counts.hits += 1
      return [{ key, fact: entry.fact as Fact[FactKind], ageMs: Math.max(0, clock.now() - entry.at) }]
    }
    counts.misses += 1
    if (value === null && nonce !== null) return [{ key, nonce }]
    counts.unreadable += 1
    void forget([key])
    return []
  }

  return {
    counts,
    invalidate: forget,
    lookup: async (keys) => {
      const replies = await redis.run((connection) =>
        Promise.all(keys.map((key) => connection.scripts.look(nameOf(connection, key), random(), nonceTtlMs))),
      )
      if (replies === undefined) {
        counts.misses += keys.length
        return []
      }
      return replies.flatMap((reply, index) => read(keys[index] as FactKey, reply))
    },
    writeBack: (key, fact, nonce) => {
      const lives = Math.round(ttlMs * (1 - 0.1 * Math.random()))
      const entry = JSON.stringify({ at: clock.now(), fact } satisfies Entry)
      void redis
        .run((connection) => connection.scripts.keep(nameOf(connection, key), nonce, entry, lives))
        .then((kept) => {
          if (kept === 0) counts.refused += 1
        })
    },
    get serverRunId() {
      return redis.serverRunId
    },
  }
}
