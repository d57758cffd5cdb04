import type { OnForged, Redis, Script } from '../platform/redis.ts'
import { type Delta, principalKinds } from './delta.ts'

/** No request waits for it. */
const deadlineMs = 200
/** Batches that are kept: those of a minute of several instances. */
const keptBatches = 256
const readBatches = 64
const maxInstances = 1_000
/** An older batch is not believed, so that none can be sent again. */
const maxAgeMs = 90_000

/**
 * Adds a batch to the stream and returns the batches after ARGV[4]; at first those of the last minute.
 * ARGV: instance, batch, its authentication, the last id that was read.
 */
const exchangeScript: Script = {
  keys: 1,
  lua: `
    if ARGV[2] ~= '' then
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', ${keptBatches}, '*', 'i', ARGV[1], 'b', ARGV[2], 'a', ARGV[3])
      redis.call('PEXPIRE', KEYS[1], 120000)
    end
    local from = '(' .. ARGV[4]
    if ARGV[4] == '' then from = (redis.call('TIME')[1] - 60) .. '000' end
    return redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ${readBatches})`,
}

export const anomalyScripts = { exchangeAnomalies: exchangeScript } as const
export type AnomalyRedis = Pick<Redis<keyof typeof anomalyScripts>, 'run'>

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value) && value >= 0
const areNumbers = (value: unknown): value is number[] => Array.isArray(value) && value.every(isNumber)

const encodeDelta = (delta: Delta) => [
  principalKinds.indexOf(delta.kind),
  delta.principal,
  delta.requests,
  delta.denied,
  delta.unauthorized,
  delta.failed,
  delta.failedUnknown,
  delta.resources,
  delta.missing,
  delta.accounts,
  delta.signedIn,
  delta.places.map(({ session, network, country, device, firstMs, lastMs }) => [
    session,
    network,
    country,
    device,
    firstMs,
    lastMs,
  ]),
]

const decodeDelta = (given: unknown): Delta | undefined => {
  if (!Array.isArray(given) || given.length !== 12 || !given.slice(0, 7).every(isNumber)) return undefined
  const [code, principal, requests, denied, unauthorized, failed, failedUnknown] = given as number[]
  const kind = principalKinds[code ?? -1]
  const [resources, missing, accounts, signedIn, places] = given.slice(7) as unknown[]
  if (kind === undefined || !areNumbers(resources) || !areNumbers(missing) || !areNumbers(accounts)) return undefined
  if (!areNumbers(signedIn)) return undefined
  if (!Array.isArray(places) || !places.every((place) => areNumbers(place) && place.length === 6)) return undefined
  return {
    kind,
    principal: principal ?? 0,
    requests: requests ?? 0,
    denied: denied ?? 0,
    unauthorized: unauthorized ?? 0,
    failed: failed ?? 0,
    failedUnknown: failedUnknown ?? 0,
    resources,
    missing,
    accounts,
    signedIn,
    places: (places as number[][]).map(
      ([session = 0, network = 0, country = 0, device = 0, firstMs = 0, lastMs = 0]) => ({
        session,
        network,
        country,
        device,
        firstMs,
        lastMs,
      }),
    ),
  }
}

export const encodeBatch = (deltas: readonly Delta[], nowMs: number): string =>
  JSON.stringify([nowMs, deltas.map(encodeDelta)])

type Batch = { readonly atMs: number; readonly deltas: readonly Delta[] }

/** Undefined for a text that is no batch, or an old one. */
export const decodeBatch = (text: string, nowMs: number): Batch | undefined => {
  try {
    const [atMs, deltas] = JSON.parse(text) as [unknown, unknown]
    if (!isNumber(atMs) || !Array.isArray(deltas) || Math.abs(nowMs - atMs) > maxAgeMs) return undefined
    return { atMs, deltas: deltas.flatMap((delta) => decodeDelta(delta) ?? []) }
  } catch {
    return undefined
  }
}

/**
 * How instances exchange their deltas: one script and one round trip for each tick.
 *
 * Guarantee: a batch that no instance with this SECRET has written is not believed, and reported as forged. Degrades: without
 * Redis each instance has its own deltas alone, so an attack spread over all of them is found by its part on one.
 */
export const createAnomalyExchange = ({
  redis,
  prefix,
  instance,
  authenticate,
  onForged,
}: {
  redis: AnomalyRedis
  /** The same for all instances of a deployment. */
  prefix: string
  instance: string
  /** A hash under a key that follows from SECRET. */
  authenticate: (text: string) => string
  onForged: OnForged
}) => {
  const key = `velro:{anomalies:${prefix}}`
  /** The time of the latest batch of each instance. */
  const latestMs = new Map<string, number>()
  let lastId = ''
  let lastRunId = ''
  return {
    /** Sends the deltas of this instance; resolves to those of the others. */
    exchange: async (deltas: readonly Delta[], nowMs: number): Promise<readonly Delta[]> => {
      const own = deltas.length === 0 ? '' : encodeBatch(deltas, nowMs)
      const authentication = authenticate(`${instance} ${own}`)
      const found = (await redis.run(({ scripts, serverRunId }) => {
        // Another server counts its ids by another clock.
        if (serverRunId !== lastRunId) lastId = ''
        lastRunId = serverRunId
        return scripts.exchangeAnomalies(key, instance, own, authentication, lastId)
      }, deadlineMs)) as [id: string, fields: string[]][] | undefined
      if (found === undefined) return []
      lastId = found.at(-1)?.[0] ?? lastId
      return found.flatMap(([, [, from = '', , text = '', , given]]) => {
        if (from === instance) return []
        const isGenuine = given === authenticate(`${from} ${text}`)
        if (!isGenuine) onForged({ what: 'anomaly', key: from })
        const batch = isGenuine ? decodeBatch(text, nowMs) : undefined
        // Each batch of an instance counts once, even if it is written again.
        if (batch === undefined || batch.atMs <= (latestMs.get(from) ?? 0)) return []
        latestMs.delete(from)
        latestMs.set(from, batch.atMs)
        if (latestMs.size > maxInstances) latestMs.delete(latestMs.keys().next().value ?? '')
        return batch.deltas
      })
    },
  }
}

export type AnomalyExchange = ReturnType<typeof createAnomalyExchange>
