import type { Clock } from '../kit/clock.ts'
import { createDeadlines } from '../kit/deadline.ts'
import type { OnForged, Redis } from '../platform/redis.ts'
import type { Mac } from '../platform/secrets.ts'
import { decodeFigures, encodeFigures } from './encoded-figures.ts'
import { type Figures, type InstanceFigures, mergeFigures } from './figures.ts'
import type { FiguresStore, StoredFigures } from './figures-store.ts'

/** How often an instance writes its figures. */
export const publishMs = 1_000
/** For how long figures that were read are used again. */
const reusedMs = 900
/** Figures of an instance that are older are missing. */
const staleMs = 5_000
/** How long they stay in Redis. */
const keptMs = 10_000
/** For how long an instance that is no member any more is looked for: it may be frozen, or cut off from the bus. */
const soughtMs = 60_000
/** Stands in place of the figures of an instance that has ended in good order. */
const leftText = 'left'
const redisMs = 100
const postgresMs = 500

export type Aggregate = Figures & {
  readonly takenAtMs: number
  readonly answeredBy: string
  /** The figures of each instance that are in it. */
  readonly parts: readonly InstanceFigures[]
  /** The instances whose figures are in it. */
  readonly included: readonly string[]
  /** Those that were members within the last minute, have not ended in good order, and whose figures could not be read. */
  readonly missing: readonly string[]
  /** Whether all other instances are known, as they are while the bus is connected. */
  readonly membersKnown: boolean
}

type Dependencies = {
  readonly instance: string
  readonly collect: () => InstanceFigures
  readonly bus: { members(): readonly string[]; noLeaseReason(): string | undefined }
  /** Undefined: no Redis is configured. */
  readonly redis: Pick<Redis, 'run'> | undefined
  /** Of the names in Redis: the same for all instances of a deployment. */
  readonly prefix: string
  readonly macs: readonly [Mac, ...Mac[]]
  readonly onForged: OnForged
  readonly store: FiguresStore
  /** Throws while Postgres does not answer. */
  readonly requireAvailable: () => void
  readonly clock: Clock
  readonly realClock: Clock
}

/** Figures as they are kept: `<id of the key> <tag> <JSON>`. */
const createSigning = ([own, ...older]: readonly [Mac, ...Mac[]], prefix: string, onForged: OnForged) => {
  const nameOf = (instance: string) => `${prefix}${instance}`
  const signed = (instance: string, text: string) => `${nameOf(instance)} ${text}`
  return {
    nameOf,
    sign: (instance: string, text: string): string => `${own.keyId} ${own.tag(signed(instance, text))} ${text}`,
    /** Undefined where the instance did not write it, or did so under a secret or in a version that is not known here. */
    read: (instance: string, stored: string): InstanceFigures | 'left' | undefined => {
      const text = stored.slice(30)
      const mac = [own, ...older].find(({ keyId }) => keyId === stored.slice(0, 6))
      if (mac?.isTagged(signed(instance, text), stored.slice(7, 29)))
        return text === leftText ? 'left' : decodeFigures(text)
      // Under another secret it is that of an instance whose SECRET is replaced first.
      if (mac !== undefined) onForged({ what: 'figures', key: nameOf(instance) })
      return undefined
    },
  }
}

/**
 * Adds up the figures of all instances.
 *
 * Each writes its own once a second, while it knows of another one: into Redis, or into a table where Redis does not take them.
 * They are authenticated, because others may be able to write to Redis. NOTIFY is not used: its one queue carries invalidations.
 *
 * Guarantee: the figures of this instance are always included, and each other one whose figures are older than 5 s is named as
 * missing: while it is a member, and for a minute after that unless it has ended in good order. Cost: at most one read a second for
 * any number of callers, none for a single instance. Degrades: without Redis and Postgres, each instance has its own figures alone.
 * The figures of an instance that has ended are gone with it.
 */
export const createFiguresExchange = ({
  instance,
  collect,
  bus,
  redis,
  prefix,
  macs,
  onForged,
  store,
  requireAvailable,
  clock,
  realClock,
}: Dependencies) => {
  const startDeadline = createDeadlines(realClock)
  const { nameOf, sign, read } = createSigning(macs, prefix, onForged)

  const inPostgres = <T>(work: () => PromiseLike<T>): Promise<T> => {
    requireAvailable()
    return startDeadline(postgresMs).run(work())
  }

  const isFresh = ({ takenAtMs }: InstanceFigures) => Math.abs(clock.now() - takenAtMs) < staleMs

  /** When each instance was last known to be a member. */
  const knownAtMs = new Map<string, number>()
  const findOthers = (): string[] => {
    const nowMs = realClock.monotonic()
    for (const member of bus.members()) if (member !== instance) knownAtMs.set(member, nowMs)
    for (const [other, atMs] of knownAtMs) if (nowMs - atMs >= soughtMs) knownAtMs.delete(other)
    return [...knownAtMs.keys()]
  }

  const readFrom = (stored: readonly StoredFigures[]): InstanceFigures[] =>
    stored.flatMap(({ instance: other, content }) => {
      const figures = read(other, content)
      if (figures === 'left') knownAtMs.delete(other)
      return figures === undefined || figures === 'left' || !isFresh(figures) ? [] : [figures]
    })

  const readRedis = async (wanted: readonly string[]): Promise<InstanceFigures[]> => {
    const stored = await redis?.run(
      ({ client }) => Promise.all(wanted.map((other) => client.get(nameOf(other)))),
      redisMs,
    )
    return readFrom(wanted.flatMap((other, at) => (stored?.[at] ? [{ instance: other, content: stored[at] }] : [])))
  }

  const readOthers = async (wanted: readonly string[]): Promise<InstanceFigures[]> => {
    if (wanted.length === 0) return []
    const found = await readRedis(wanted)
    const lacking = wanted.filter(
      (other) => knownAtMs.has(other) && !found.some((figures) => figures.instance === other),
    )
    if (lacking.length === 0) return found
    try {
      return [...found, ...readFrom(await inPostgres(() => store.read(lacking)))]
    } catch {
      return found
    }
  }

  const aggregate = async (): Promise<Aggregate> => {
    const wanted = findOthers()
    const others = await readOthers(wanted)
    const included = [instance, ...others.map((figures) => figures.instance)]
    const own = collect()
    return {
      ...mergeFigures([own, ...others]),
      takenAtMs: own.takenAtMs,
      answeredBy: instance,
      parts: [own, ...others],
      included,
      missing: wanted.filter((other) => knownAtMs.has(other) && !included.includes(other)),
      membersKnown: bus.noLeaseReason() === undefined,
    }
  }

  const write = async (text: string): Promise<void> => {
    const signedText = sign(instance, text)
    const written = await redis?.run(({ client }) => client.set(nameOf(instance), signedText, 'PX', keptMs), redisMs)
    if (written !== 'OK') await inPostgres(() => store.write(instance, signedText))
  }

  let reading: Promise<Aggregate> | undefined
  let reusedUntilMs = Number.NEGATIVE_INFINITY
  return {
    /** Writes the figures of this instance. */
    publish: async (): Promise<void> => {
      if (findOthers().length > 0) await write(encodeFigures(collect()))
    },
    /** Notes for the others that this instance ends in good order. */
    leave: async (): Promise<void> => {
      if (findOthers().length > 0) await write(leftText)
    },
    /** Does not reject. Those of the last second are used again. */
    read: (): Promise<Aggregate> => {
      const nowMs = realClock.monotonic()
      if (reading === undefined || nowMs >= reusedUntilMs) {
        reusedUntilMs = nowMs + reusedMs
        reading = aggregate()
      }
      return reading
    },
  }
}

export type FiguresExchange = ReturnType<typeof createFiguresExchange>
