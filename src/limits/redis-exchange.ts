import type { Clock } from '../kit/clock.ts'
import type { OnForged, Redis, Script } from '../platform/redis.ts'
import type { Mac } from '../platform/secrets.ts'
import { claimLivesMs, createClaims } from './claims.ts'
import type { Answer, Exchange, LimitedKey, Report } from './exchange.ts'
import { slotsPerWindow } from './slot-counts.ts'

/** For what no request waits for. */
const deadlineMs = 100

/** The first character of the field in which an instance claims the units that it has sent; see `createClaims`. */
const claimPrefix = '@'

/**
 * One hash for each key: units by slot, the slots counted by the clock of the server; a claim of each instance; and, once a demand
 * was refused, `refused` and `limit`. A sorted set names the keys that were refused, by the time at which they have units again.
 * Fields that no instance writes are removed, and so is a key of another type or of far too many fields.
 *
 * KEYS: the sorted set, then a hash for each report. ARGV, for each report: its name in the
 * sorted set, window, limit, cost, whether part of it may be taken, refusals, the field and the text of the claim, how long claims
 * live, the number of pairs, and the pairs of age and units. Returns the time of the server and, for each report, total, units
 * taken, time to wait and, where that is not 0, the fields of all claims and their texts.
 */
const exchangeScript: Script = {
  keys: 'given',
  lua: `
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local at = 1
    local answers, takes, fits = {}, {}, true
    for index = 2, #KEYS do
      local key = KEYS[index]
      local name, window, limit = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
      local cost, partial = tonumber(ARGV[at + 3]), ARGV[at + 4] == '1'
      local refused, pairCount = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 9])
      local claimField, claim, claimLives = ARGV[at + 6], ARGV[at + 7], tonumber(ARGV[at + 8])
      at = at + 10
      local slotMs = window / ${slotsPerWindow}
      local slot = math.floor(now / slotMs)
      local oldest = slot - ${slotsPerWindow}
      local found = redis.pcall('HGETALL', key)
      if found.err or #found > ${2 * 4_000} then
        redis.call('UNLINK', key)
        found = {}
      end
      local units, slots, expired, claims, total = {}, {}, {}, {}, 0
      for field = 1, #found, 2 do
        local name, value = found[field], found[field + 1]
        local each = string.match(name, '^%d+$') and tonumber(name)
        if string.sub(name, 1, 1) == '${claimPrefix}' then
          if name == claimField then
          elseif tonumber(string.match(value, '^%d+') or 0) < now - claimLives then expired[#expired + 1] = name
          else
            claims[#claims + 1] = name
            claims[#claims + 1] = value
          end
        elseif each then
          if each < oldest or each > slot + 2 or #value > 15 or not string.match(value, '^%-?%d+$') then
            expired[#expired + 1] = name
          else
            units[each] = tonumber(value)
            slots[#slots + 1] = each
            total = total + units[each]
          end
        end
      end
      if #expired > 0 then redis.call('HDEL', key, unpack(expired)) end
      for pair = 1, pairCount do
        local each, count = slot - tonumber(ARGV[at]), tonumber(ARGV[at + 1])
        at = at + 2
        if each >= oldest then
          redis.call('HINCRBY', key, each, count)
          if units[each] == nil then
            units[each] = 0
            slots[#slots + 1] = each
          end
          units[each] = units[each] + count
          total = total + count
        end
      end
      local left = math.max(0, limit - total)
      local take = cost
      local wanted = total + math.max(cost, 1) - limit
      if partial and cost > left then
        take = left
        wanted = total + left + 1 - limit
      end
      local wait = 0
      if wanted > 0 then
        wait = window + slotMs
        table.sort(slots)
        for _, each in ipairs(slots) do
          wanted = wanted - units[each]
          if wanted <= 0 then
            wait = math.max(1, math.ceil((each + ${slotsPerWindow + 1}) * slotMs - now))
            break
          end
        end
        if cost > 0 and not partial then
          fits = false
          refused = refused + 1
        end
      end
      if claim ~= '' then redis.call('HSET', key, claimField, claim) end
      if refused > 0 then
        local counted = redis.pcall('HINCRBY', key, 'refused', refused)
        if type(counted) == 'table' then redis.call('HSET', key, 'refused', refused) end
        redis.call('HSET', key, 'limit', limit)
        local removed = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
        if type(removed) == 'table' then redis.call('UNLINK', KEYS[1]) end
        if wait > 0 then
          redis.call('ZADD', KEYS[1], now + wait, name)
          redis.call('PEXPIRE', KEYS[1], 7200000)
        end
      end
      if total > 0 or refused > 0 then redis.call('PEXPIRE', key, math.ceil(window + 2 * slotMs)) end
      takes[#takes + 1] = {key, slot, take, math.ceil(window + 2 * slotMs)}
      answers[#answers + 1] = {total, 0, math.min(wait, window + slotMs), wait > 0 and claims or {}}
    end
    if fits then
      for index, take in ipairs(takes) do
        if take[3] > 0 then
          redis.call('HINCRBY', take[1], take[2], take[3])
          redis.call('PEXPIRE', take[1], take[4])
          answers[index][1] = answers[index][1] + take[3]
          answers[index][2] = take[3]
        end
      end
    end
    return {now, answers}`,
}

/** The time of the server, and for each key that was refused and has no units yet: name, milliseconds to wait, and its hash. */
const listScript: Script = {
  keys: 1,
  lua: `
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local names = redis.pcall('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
    local answer = {}
    if names.err then return {now, answer} end
    for index = 1, #names, 2 do
      local found = redis.pcall('HGETALL', ARGV[1] .. names[index])
      if not found.err then answer[#answer + 1] = {names[index], names[index + 1] - now, found} end
    end
    return {now, answer}`,
}

export const limitScripts = { exchangeUnits: exchangeScript, listLimited: listScript } as const

export type LimitRedis = Pick<Redis<keyof typeof limitScripts>, 'run' | 'serverRunId' | 'state'>

const nameOf = (budget: string, id: string) => `${budget}|${id}`

type Dependencies = {
  readonly redis: LimitRedis
  /** The same for all instances of a deployment. */
  readonly prefix: string
  /** A name that no other instance has, nor this one after a restart. */
  readonly instance: string
  readonly mac: Mac
  readonly onForged: OnForged
  readonly clock: Pick<Clock, 'monotonic'>
}

type ScriptAnswer = [total: number, taken: number, retryAfterMs: number, claims: string[]]

/** Of the budgets that are not known here. */
const longestWindowMs = 60_000

/** The hash of a key: the sum of its units, and the claims in it. */
const readHash = (fields: readonly string[]) => {
  let [used, refused, limit] = [0, 0, 0]
  const others: string[] = []
  for (let at = 0; at < fields.length; at += 2) {
    const [field, value] = [String(fields[at]), String(fields[at + 1])]
    if (field.startsWith(claimPrefix)) others.push(field, value)
    else if (field === 'refused') refused = Number(value)
    else if (field === 'limit') limit = Number(value)
    else if (/^\d+$/.test(field)) used += Number(value)
  }
  return { used, refused, limit, others }
}

/** The time of the Redis server by the monotonic clock, learnt from each answer. */
const createServerTime = (redis: LimitRedis, clock: Pick<Clock, 'monotonic'>) => {
  let known: { readonly runId: string | undefined; readonly aheadMs: number } | undefined
  const learn = (serverNowMs: number) => {
    known = { runId: redis.serverRunId, aheadMs: serverNowMs - clock.monotonic() }
  }
  return {
    learn,
    /** Asks the server only where it is another one. Undefined: it did not answer. */
    now: async (withinMs: number): Promise<number | undefined> => {
      if (known === undefined || known.runId !== redis.serverRunId) {
        const time = await redis.run(({ client }) => client.time(), withinMs)
        if (time === undefined) return undefined
        learn(Number(time[0]) * 1_000 + Number(time[1]) / 1_000)
      }
      return known && clock.monotonic() + known.aheadMs
    },
  }
}

/**
 * The exchange of a deployment with Redis: one script and one round trip, which orders the demands of all instances. All keys
 * have one hash tag, as a script needs in a cluster.
 *
 * A count that would refuse is compared with the authenticated claims of the instances (`createClaims`). A greater one was
 * forged: it is reported and deleted, and the demand is decided anew. So a writer to Redis without SECRET limits no one.
 * Deleting counts, which no authentication prevents, leaves the own count of each instance; see `Budgets`. The id of the key
 * is part of the names: instances with another SECRET count apart.
 *
 * Degrades: without an answer in 100 ms, and while the breaker is open, the outcome is undefined; see `Budgets`.
 */
export const createRedisExchange = ({ redis, prefix, instance, mac, onForged, clock }: Dependencies): Exchange => {
  const keyPrefix = `velro:{limits:2:${mac.keyId}:${prefix}}:`
  const limitedKey = `${keyPrefix}limited`
  const claims = createClaims({ instance, mac, clock })
  const serverTime = createServerTime(redis, clock)
  /** Of budgets that were exchanged here. */
  const windows = new Map<string, number>()
  const keyOf = ({ budget, id }: Pick<Report, 'budget' | 'id'>) => keyPrefix + nameOf(budget, id)

  /** The answers of one round trip, and which of them rest on forged counts. */
  const ask = async (reports: readonly Report[], withinMs: number) => {
    const beganMs = clock.monotonic()
    const serverNowMs = await serverTime.now(withinMs)
    if (serverNowMs === undefined) return undefined
    const values = reports.flatMap((report) => {
      const { budget, id, windowMs, limit, cost, isPartial, refused, admitted } = report
      windows.set(budget, windowMs)
      const { field, text } = claims.make(keyOf(report), report, serverNowMs)
      const units = [admitted.length, ...admitted.flat()]
      const claim = [field, text, claimLivesMs(windowMs)]
      return [nameOf(budget, id), windowMs, limit, cost, isPartial ? 1 : 0, refused, ...claim, ...units]
    })
    const leftMs = Math.max(1, withinMs - (clock.monotonic() - beganMs))
    const found = (await redis.run(
      ({ scripts }) => scripts.exchangeUnits(1 + reports.length, limitedKey, ...reports.map(keyOf), ...values),
      leftMs,
    )) as [number, ScriptAnswer[]] | undefined
    for (const [at, report] of reports.entries()) claims.settle(keyOf(report), report, found?.[1][at]?.[1])
    if (found === undefined) return undefined
    const [answeredAtMs, answers] = found
    serverTime.learn(answeredAtMs)
    return reports.map((report, at) => {
      const [total, taken, retryAfterMs, others] = answers[at] ?? [0, 0, 0, []]
      const isForged =
        retryAfterMs > 0 && total > claims.justified(keyOf(report), report.windowMs, others, answeredAtMs)
      return { answer: { total, taken, retryAfterMs }, isForged }
    })
  }

  const unlink = async (budget: string, id: string): Promise<boolean> => {
    const done = await redis.run(async ({ client }) => {
      await Promise.all([client.unlink(keyOf({ budget, id })), client.zrem(limitedKey, nameOf(budget, id))])
      return true
    }, deadlineMs)
    return done === true
  }

  /** Once more, without the forged counts. Units of other keys are neither reported nor taken twice. */
  const askAgain = async (
    reports: readonly Report[],
    first: readonly { readonly answer: Answer; readonly isForged: boolean }[],
    withinMs: number,
  ): Promise<readonly Answer[] | undefined> => {
    for (const [at, { budget, id }] of reports.entries()) {
      if (!first[at]?.isForged) continue
      onForged({ what: 'limit', key: nameOf(budget, id) })
      await unlink(budget, id)
    }
    const wanted = reports.map((report, at): Report => {
      if (first[at]?.isForged) return report
      return { ...report, admitted: [], refused: 0, cost: (first[at]?.answer.taken ?? 0) > 0 ? 0 : report.cost }
    })
    const second = await ask(wanted, withinMs)
    if (second === undefined || second.some(({ isForged }) => isForged)) return undefined
    return second.map(({ answer }, at) => {
      const takenBefore = first[at]?.isForged ? 0 : (first[at]?.answer.taken ?? 0)
      return { ...answer, taken: answer.taken + takenBefore }
    })
  }

  return {
    exchange: async (reports, withinMs) => {
      const beganMs = clock.monotonic()
      const first = await ask(reports, withinMs)
      if (first === undefined) return undefined
      if (!first.some(({ isForged }) => isForged)) return first.map(({ answer }) => answer)
      return askAgain(reports, first, Math.max(1, withinMs - (clock.monotonic() - beganMs)))
    },
    isAvailable: () => redis.state() === 'up',
    get epoch() {
      return redis.serverRunId
    },
    forget: unlink,
    list: async (limit) => {
      const found = (await redis.run(({ scripts }) => scripts.listLimited(limitedKey, keyPrefix, limit), deadlineMs)) as
        | [number, [string, number, string[]][]]
        | undefined
      if (found === undefined) return undefined
      const [answeredAtMs, rows] = found
      return rows.flatMap(([name, untilMs, fields]): LimitedKey[] => {
        const { used, refused, limit: figure, others } = readHash(fields)
        const windowMs = windows.get(name.slice(0, name.indexOf('|'))) ?? longestWindowMs
        if (used <= 0 || ![used, refused, figure, untilMs].every(Number.isSafeInteger)) return []
        if (used > claims.justified(keyPrefix + name, windowMs, others, answeredAtMs)) {
          onForged({ what: 'limit', key: name })
          return []
        }
        const cut = name.indexOf('|')
        return [{ budget: name.slice(0, cut), id: name.slice(cut + 1), limit: figure, used, refused, untilMs }]
      })
    },
  }
}
