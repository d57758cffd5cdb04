import type { Redis, Script } from '../platform/redis.ts'
import type { Answer, Exchange, LimitedKey, Report } from './exchange.ts'
import { slotsPerWindow } from './slot-counts.ts'

/** For what no request waits for. */
const deadlineMs = 100

/**
 * One hash for each key: units by slot, the slots counted by the clock of the server; and, once a demand was refused, `refused`
 * and `limit`. A sorted set names the keys that were refused, by the time at which they have units again.
 *
 * KEYS: the sorted set, then a hash for each report. ARGV, for each report: its name in the
 * sorted set, window, limit, cost, whether part of it may be taken, refusals, the number of pairs, and the pairs of age and
 * units. Returns total, units taken and time to wait for each report.
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
      local refused, pairCount = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
      at = at + 7
      local slotMs = window / ${slotsPerWindow}
      local slot = math.floor(now / slotMs)
      local oldest = slot - ${slotsPerWindow}
      local found = redis.call('HGETALL', key)
      local units, slots, expired, total = {}, {}, {}, 0
      for field = 1, #found, 2 do
        local each = tonumber(found[field])
        if each then
          if each < oldest then expired[#expired + 1] = found[field]
          else
            units[each] = tonumber(found[field + 1])
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
      if refused > 0 then
        redis.call('HINCRBY', key, 'refused', refused)
        redis.call('HSET', key, 'limit', limit)
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
        if wait > 0 then
          redis.call('ZADD', KEYS[1], now + wait, name)
          redis.call('PEXPIRE', KEYS[1], 7200000)
        end
      end
      if total > 0 or refused > 0 then redis.call('PEXPIRE', key, math.ceil(window + 2 * slotMs)) end
      takes[#takes + 1] = {key, slot, take, math.ceil(window + 2 * slotMs)}
      answers[#answers + 1] = {total, 0, wait}
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
    return answers`,
}

/** The keys that were refused and have no units yet: name, milliseconds to wait, and the hash of each. */
const listScript: Script = {
  keys: 1,
  lua: `
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local names = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
    local answer = {}
    for index = 1, #names, 2 do
      local found = redis.call('HGETALL', ARGV[1] .. names[index])
      answer[#answer + 1] = {names[index], names[index + 1] - now, found}
    end
    return answer`,
}

export const limitScripts = { exchangeUnits: exchangeScript, listLimited: listScript } as const

export type LimitRedis = Pick<Redis<keyof typeof limitScripts>, 'run' | 'serverRunId' | 'state'>

const nameOf = (budget: string, id: string) => `${budget}|${id}`

/**
 * The exchange of a deployment with Redis: one script and one round trip, which orders the demands of all instances. All keys
 * have one hash tag, as a script needs in a cluster.
 *
 * Degrades: without an answer in 100 ms, and while the breaker is open, the outcome is undefined; see `Budgets`.
 */
export const createRedisExchange = ({
  redis,
  prefix,
}: {
  redis: LimitRedis
  /** The same for all instances of a deployment. */
  prefix: string
}): Exchange => {
  const keyPrefix = `velro:{limits:${prefix}}:`
  const limitedKey = `${keyPrefix}limited`
  return {
    exchange: async (reports, withinMs) => {
      const keys = reports.map(({ budget, id }) => keyPrefix + nameOf(budget, id))
      const values = reports.flatMap(({ budget, id, windowMs, limit, cost, isPartial, refused, admitted }: Report) => [
        nameOf(budget, id),
        windowMs,
        limit,
        cost,
        isPartial ? 1 : 0,
        refused,
        admitted.length,
        ...admitted.flat(),
      ])
      const found = await redis.run(
        ({ scripts }) => scripts.exchangeUnits(keys.length + 1, limitedKey, ...keys, ...values),
        withinMs,
      )
      return (found as [number, number, number][] | undefined)?.map(
        ([total, taken, retryAfterMs]): Answer => ({ total, taken, retryAfterMs }),
      )
    },
    isAvailable: () => redis.state() === 'up',
    get epoch() {
      return redis.serverRunId
    },
    forget: async (budget, id) => {
      const done = await redis.run(async ({ client }) => {
        await Promise.all([client.unlink(keyPrefix + nameOf(budget, id)), client.zrem(limitedKey, nameOf(budget, id))])
        return true
      }, deadlineMs)
      return done === true
    },
    list: async (limit) => {
      const found = (await redis.run(({ scripts }) => scripts.listLimited(limitedKey, keyPrefix, limit), deadlineMs)) as
        | [string, number, string[]][]
        | undefined
      return found?.map(([name, untilMs, fields]): LimitedKey => {
        const pairs = Array.from({ length: fields.length / 2 }, (_, at) => [fields[2 * at], Number(fields[2 * at + 1])])
        const values = Object.fromEntries(pairs) as Record<string, number>
        const { refused = 0, limit: figure = 0, ...units } = values
        const cut = name.indexOf('|')
        const used = Object.values(units).reduce((sum, each) => sum + each, 0)
        return { budget: name.slice(0, cut), id: name.slice(cut + 1), limit: figure, used, refused, untilMs }
      })
    },
  }
}
