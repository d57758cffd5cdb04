import type { Clock } from '../../kit/clock.ts'
import type { OnForged, Redis } from '../../platform/redis.ts'
import type { Mac } from '../../platform/secrets.ts'
import type { InvalidationKeys } from '../invalidation/model.ts'
import type { FactKey } from '../policy/facts/registry.ts'

/**
 * Records a statement and returns the time of the server and all statements. Each is
 * `<when it was written> <statement>`, in milliseconds of the server. Statements older than ARGV[3] are removed, and so is a key of
 * another type, which no instance wrote.
 */
export const stateScript = {
  keys: 1,
  lua: `
      local time = redis.call('TIME')
      local now = time[1] * 1000 + math.floor(time[2] / 1000)
      local known = redis.pcall('HEXISTS', KEYS[1], ARGV[1])
      if type(known) == 'table' then
        redis.call('UNLINK', KEYS[1])
        known = 0
      end
      redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
      redis.call('PEXPIRE', KEYS[1], ARGV[3])
      local all = redis.call('HGETALL', KEYS[1])
      for at = 1, #all, 2 do
        local written = tonumber(string.match(all[at + 1], '^%d+'))
        if written == nil or written < now - ARGV[3] then redis.call('HDEL', KEYS[1], all[at]) end
      end
      return {now, known, all}`,
} as const

/** The longest EMERGENCY_READ_SECONDS, and a minute. */
const keptMs = 3_660_000
const answerMs = 500
/** A statement that Postgres cannot be reached has the keys of the newest events: few are under way when it stops to answer. */
const maxCarriedEvents = 64
const maxCarriedKeys = 100
/** An instance that stated nothing for so long before the last heartbeat of this one, and is no member, is taken for ended. */
const silentMs = 60_000

/** What the bus knows of the events that this instance has applied. */
export type Progress = {
  /** The database whose events they are; undefined while unknown. */
  readonly identity: string
  /** The position of the newest one. Every earlier one is applied too. */
  readonly position: number
}

/**
 * Why stale reads are refused. `others_unknown`: an instance that may have committed changes has not stated that it cannot
 * reach Postgres. `no_redis`: several instances run, and no Redis is configured. `redis_silent`: Redis did not answer within
 * a lease. `events_missing`: another instance has applied an event that this one has not, or on another database.
 */
export const refusals = ['others_unknown', 'no_redis', 'redis_silent', 'events_missing'] as const
export type Refusal = (typeof refusals)[number]

/**
 * Agrees with the other instances that Postgres is down for all of them, which alone makes stale reads safe: nothing can be
 * revoked then. One instance that cannot reach Postgres proves nothing, because the others may.
 *
 * Each instance states in Redis, every 250 ms, whether it can reach Postgres, and how far it has applied events.
 *
 * Guarantee: while `isShared`, no change that this instance has not applied was answered by any instance, and none will be
 * within the wait of its writer. For:
 * - "Cannot reach" is stated only while the bus has no connection and every own commit has come back on it, or its keys are in
 *   the statement. A change committed later is answered one wait (more than a lease) after its commit or after the bus was
 *   connected again. The statement is believed for less than a lease, counted from the time that Redis gave the instance
 *   *before* it looked.
 * - The statement names the newest event the instance has applied, and this instance must have applied it too, or the statement
 *   has the keys of all events that this one lacks. Keys in a statement are invalidated here before it is believed. No fact
 *   is loaded before Postgres is back, and then memory is cleared.
 * - Every other instance must have stated so: each member of the two leases before the lease was last renewed, and each that
 *   stated anything in the minute before that or since. Silence, a statement of "can reach", and one that is too old refuse.
 * - A statement is authenticated under a key that is derived from SECRET, with the name of its instance. Any other is
 *   reported, and refuses. A copy of an earlier one is believed for less than a lease, like the one that it replaces. While
 *   SECRET is replaced, a statement under a secret that is not known here refuses, and is not reported.
 * - Where Redis has lost the statements, two leases pass first: each live instance has stated anew within that time.
 *
 * Without Redis, only an instance that received no heartbeat of another one in its last two leases agrees with itself.
 *
 * Not covered: an instance that is no member, cannot reach this Redis, and reaches Postgres while all others are cut off: one
 * that was started meanwhile, or stated nothing for a minute, or whose statement Redis has lost.
 *
 * Costs one command each 250 ms, and no request waits for it; `isShared` is a comparison.
 */
export type SharedOutage = {
  /** Whether stale reads are safe now. */
  isShared(): boolean
  /** Why they are not; undefined where they are. */
  readonly refusal: Refusal | undefined
  /** Resolves when the first statement is recorded, or Redis did not answer in 500 ms. Before this instance commits. */
  announce(): Promise<void>
  /** From now on this instance states every 250 ms. */
  start(bus: OutageBus): void
  /** What the bus reports, synchronously. */
  readonly hooks: OutageHooks
  /** States that this instance commits nothing any more, where that is certain. */
  close(): Promise<void>
}

export type OutageHooks = {
  /** The connection of the bus opened or was lost. Before it applies a message of a new connection. */
  onConnection(isOpen: boolean): void
  /** A transaction of this instance is about to commit this event. */
  onCommitting(eventId: string, keys: InvalidationKeys): void
  /** The transaction failed, and so does the call. */
  onAbandoned(eventId: string): void
  /** An event came back on the bus. */
  onEvent(eventId: string, position: number | undefined, keys: InvalidationKeys): void
  /** The state of the database was read anew, with every event committed before. */
  onReset(progress: Progress): void
}

export const noOutageHooks: OutageHooks = {
  onConnection: () => {},
  onCommitting: () => {},
  onAbandoned: () => {},
  onEvent: () => {},
  onReset: () => {},
}

export type OutageBus = {
  readonly lease: { readonly untilMs: number }
  members(): readonly string[]
  /** Removes facts from memory. */
  invalidate(keys: readonly FactKey[]): void
}

export type OutageRedis = Pick<Redis<'state'>, 'runBypassingBreaker' | 'serverRunId'>

type Dependencies = {
  readonly instance: string
  /** Undefined: no Redis is configured. */
  readonly redis: OutageRedis | undefined
  /** The key of the statements: the same for all instances of a deployment. */
  readonly key: string
  /** The clock of leases. */
  readonly clock: Clock
  readonly leaseMs: number
  /** How often an instance states. */
  readonly everyMs: number
  /** Whether Postgres answers on a new connection. Does not reject. */
  readonly isReachable: () => Promise<boolean>
  /** Of statements, one for each secret, the current one first. */
  readonly macs: readonly [Mac, ...Mac[]]
  readonly onForged: OnForged
}

type Statement = {
  readonly state: 'reachable' | 'unreachable' | 'left'
  /** The newest time of the Redis server that the instance knew before it looked. */
  readonly asOfMs: number
  readonly identity: string
  readonly position: number
  /** Undefined: there are too many. */
  readonly carried?: Carried | undefined
}
type CarriedEvent = { readonly position: number; readonly keys: readonly FactKey[] }
type Carried = {
  /** Of own commits that have not come back on the bus. */
  readonly unseen: readonly FactKey[]
  /** All events after the position `from` that the instance has applied. */
  readonly from: number
  readonly events: readonly CarriedEvent[]
}
/** Undefined: nothing that may be believed was stated. */
type Written = { readonly writtenMs: number; readonly statement: Statement | undefined }

/** The position `from` and unseen keys, then each event: its position behind an @, which no key begins with, and its keys. */
const toWords = ({ unseen, from, events }: Carried): readonly (string | number)[] => [
  from,
  ...unseen,
  ...events.flatMap(({ position, keys }) => [`@${position}`, ...keys]),
]

const fromWords = (from: number, words: readonly string[]): Carried => {
  const unseen: FactKey[] = []
  const events: { readonly position: number; readonly keys: FactKey[] }[] = []
  for (const word of words) {
    if (word.startsWith('@')) events.push({ position: Number(word.slice(1)), keys: [] })
    else (events.at(-1)?.keys ?? unseen).push(word as FactKey)
  }
  return { unseen, from, events }
}

const encode = ({ state, asOfMs, identity, position, carried }: Statement) =>
  [state, asOfMs, identity, position, ...(carried === undefined ? [] : toWords(carried))].join(' ')

const parse = (text: string): Statement | undefined => {
  const words = /^(reachable|unreachable|left) (\d{1,16}) (\S{1,200}) (-?\d{1,16})(?: (-?\d{1,16})((?: \S+)*))?$/.exec(
    text,
  )
  if (words === null) return undefined
  const [, state, asOfMs, identity = '', position = '0', from, keys = ''] = words
  const carried = from === undefined ? undefined : fromWords(Number(from), keys.split(' ').slice(1))
  return { state: state as Statement['state'], asOfMs: Number(asOfMs), identity, position: Number(position), carried }
}

/** Statements as they are in Redis: `<statement> <id of the key> <tag>`. */
const createStatements = (macs: readonly [Mac, ...Mac[]], key: string, onForged: OnForged) => {
  const signed = (name: string, text: string) => `${key} ${name} ${text}`
  const [own] = macs
  const read = (name: string, stored: string): Written => {
    const [, writtenMs = 'NaN', text = '', keyId, tag = ''] =
      /^(\d{1,16}) (.{1,16000}?)(?: ([\w-]{6}) ([\w-]{22}))?$/.exec(stored) ?? []
    const statement = parse(text)
    const written = { writtenMs: Number(writtenMs), statement: undefined }
    const mac = macs.find((each) => each.keyId === keyId)
    if (statement !== undefined && mac?.isTagged(signed(name, text), tag)) return { ...written, statement }
    // Not reported: a statement under another secret, and what an instance without tags states unless it is that Postgres is down.
    const isOfOthers =
      keyId !== undefined ? mac === undefined : statement !== undefined && statement.state !== 'unreachable'
    if (!isOfOthers) onForged({ what: 'statement', key: name })
    return written
  }
  return {
    encode: (name: string, statement: Statement): string => {
      const text = encode(statement)
      return `${text} ${own.keyId} ${own.tag(signed(name, text))}`
    },
    /** From names and texts in turns. */
    decode: (all: readonly string[]): Map<string, Written> => {
      const found = new Map<string, Written>()
      for (let at = 0; at < all.length; at += 2) found.set(String(all[at]), read(String(all[at]), String(all[at + 1])))
      return found
    },
  }
}

const unknownProgress: Progress = { identity: '-', position: -1 }

/** When Redis answered, on our clock, and its own time. */
type Answer = { readonly serverNowMs: number; readonly sentMs: number; readonly receivedMs: number }

type View = {
  readonly others: ReadonlyMap<string, Written>
  /** Instances that must have stated that they cannot reach Postgres. */
  readonly known: ReadonlySet<string>
  readonly applied: Progress | undefined
  readonly answer: Answer
  /** A statement from before that time is of an instance that has ended. */
  readonly relevantMs: number
  readonly leaseMs: number
}

/** Until when stale reads are safe by these statements, or why they are not. */
const judge = ({ others, known, applied, answer, relevantMs, leaseMs }: View): number | Refusal => {
  const { serverNowMs, sentMs, receivedMs } = answer
  let untilMs = sentMs + leaseMs
  const silent = new Set(known)
  for (const [name, { writtenMs, statement }] of others) {
    const isKnown = silent.delete(name)
    if (!isKnown && receivedMs - (serverNowMs - writtenMs) < relevantMs) continue
    if (statement === undefined) return 'others_unknown'
    const { state, asOfMs, identity, position, carried } = statement
    if (state === 'reachable') return 'others_unknown'
    if (state === 'unreachable') untilMs = Math.min(untilMs, sentMs + leaseMs - (serverNowMs - asOfMs))
    if (applied === undefined || identity !== applied.identity) return 'events_missing'
    if (position > applied.position && !(carried !== undefined && carried.from <= applied.position))
      return 'events_missing'
  }
  return silent.size > 0 || untilMs <= receivedMs ? 'others_unknown' : untilMs
}

/** Whether this instance itself may commit, or may have committed, changes that the others do not know of. */
const createOwnReach = (clock: Clock, isLeased: () => boolean, isReachable: () => Promise<boolean>) => {
  let isConnected = false
  let openedMs = Number.POSITIVE_INFINITY
  /** Own events that may be committed and have not come back on the bus. */
  const unseen = new Map<string, InvalidationKeys>()
  /** The newest events applied, and the position of the one before them. */
  let applied: { readonly position: number; readonly keys: InvalidationKeys }[] = []
  let appliedFrom = 0
  let reachable = true
  let probing = false
  /** Undefined: unknown, or an event of another version came, which has no position. */
  let progress: Progress | undefined
  const hooks: OutageHooks = {
    onConnection: (isOpen) => {
      isConnected = isOpen
      if (isOpen) openedMs = clock.monotonic()
    },
    onCommitting: (eventId, keys) => void unseen.set(eventId, keys),
    onAbandoned: (eventId) => void unseen.delete(eventId),
    onEvent: (eventId, position, keys) => {
      unseen.delete(eventId)
      if (progress === undefined || position === undefined) progress = undefined
      else {
        progress = { ...progress, position: Math.max(progress.position, position) }
        applied.push({ position, keys })
        const oldest = applied.length > maxCarriedEvents ? applied.shift() : undefined
        appliedFrom = oldest?.position ?? appliedFrom
      }
    },
    onReset: (read) => {
      unseen.clear()
      progress = read
      applied = []
      appliedFrom = read.position
    },
  }
  /** Undefined: own commits that have not come back have too many keys. The newest events first, as many as there is room for. */
  const carry = (): Carried | undefined => {
    const ofUnseen: FactKey[] = []
    for (const keys of unseen.values()) {
      if (keys === 'everything') return undefined
      ofUnseen.push(...keys)
    }
    let room = maxCarriedKeys - ofUnseen.length
    if (room < 0) return undefined
    const events: CarriedEvent[] = []
    for (const { position, keys } of applied.toReversed()) {
      room -= keys === 'everything' ? Number.POSITIVE_INFINITY : keys.length
      if (keys === 'everything' || room < 0) return { unseen: ofUnseen, from: position, events }
      events.unshift({ position, keys })
    }
    return { unseen: ofUnseen, from: appliedFrom, events }
  }
  const isTrusted = () => isConnected || isLeased()
  return {
    hooks,
    progress: () => progress,
    isConnected: () => isConnected,
    openedMs: () => openedMs,
    hasUnseenCommits: () => unseen.size > 0,
    carry,
    cannotReach: () => !reachable && !isTrusted() && (unseen.size === 0 || carry() !== undefined),
    /** One probe at a time. None while the bus is connected, which is proof enough. */
    probe: () => {
      if (isTrusted()) reachable = true
      if (isTrusted() || probing) return
      probing = true
      void isReachable()
        .then((is) => {
          reachable = is || isTrusted()
        })
        .finally(() => {
          probing = false
        })
    },
  }
}

/**
 * Keys of commits that have not come back, and of events that other instances have applied and this one has not. Undefined: own
 * commits have too many.
 */
const findCarriedKeys = (
  reach: ReturnType<typeof createOwnReach>,
  statements: Map<string, Written>,
): Set<FactKey> | undefined => {
  const own = reach.hasUnseenCommits() ? reach.carry()?.unseen : []
  if (own === undefined) return undefined
  const keys = new Set(own)
  const position = reach.progress()?.position ?? Number.NEGATIVE_INFINITY
  for (const { statement } of statements.values()) {
    for (const key of statement?.carried?.unseen ?? []) keys.add(key)
    for (const event of statement?.carried?.events ?? [])
      if (event.position > position) for (const key of event.keys) keys.add(key)
  }
  return keys
}

/** Whether the clock of the Redis server, which ages are measured by, went otherwise than ours since the last answer. */
const clockStepped = (last: Answer | undefined, { serverNowMs, sentMs, receivedMs }: Answer): boolean => {
  if (last === undefined) return false
  const advancedMs = serverNowMs - last.serverNowMs
  const atLeastMs = 0.8 * (sentMs - last.receivedMs) - 50
  const atMostMs = 1.25 * (receivedMs - last.sentMs) + 50
  return advancedMs < atLeastMs || advancedMs > atMostMs
}

export const createSharedOutage = (dependencies: Dependencies): SharedOutage => {
  const { instance, redis, key, clock, leaseMs, everyMs, isReachable, macs, onForged } = dependencies
  let bus: OutageBus | undefined
  /** The members of the two leases before the lease of this instance was last renewed, and all since. */
  let known = new Set<string>()
  let knownAtLeaseMs = Number.NEGATIVE_INFINITY
  let serverRunId: string | undefined
  let lastAnswer: Answer | undefined
  /** Until when the statements may be incomplete, because Redis had lost them. */
  let incompleteUntilMs = Number.NEGATIVE_INFINITY
  let sharedUntilMs = Number.NEGATIVE_INFINITY
  let refusal: Refusal | undefined = 'others_unknown'
  let busy = false

  const leaseUntilMs = () => bus?.lease.untilMs ?? Number.NEGATIVE_INFINITY
  const isLeased = () => clock.monotonic() < leaseUntilMs()
  const reach = createOwnReach(clock, isLeased, isReachable)
  const statementsIn = createStatements(macs, key, onForged)

  const updateMembers = () => {
    const now = bus?.members() ?? []
    const isRenewed = isLeased() && leaseUntilMs() !== knownAtLeaseMs
    // Between renewals no member is dropped: this instance may be the one that receives nothing any more.
    if (isRenewed) {
      known = new Set(now)
      knownAtLeaseMs = leaseUntilMs()
    } else for (const member of now) known.add(member)
  }

  const own = (): Statement => {
    const isUnreachable = reach.cannotReach() && lastAnswer !== undefined
    const { identity, position } = reach.progress() ?? unknownProgress
    return {
      identity,
      position,
      state: isUnreachable ? 'unreachable' : 'reachable',
      asOfMs: lastAnswer?.serverNowMs ?? 0,
      carried: isUnreachable ? reach.carry() : undefined,
    }
  }

  const refuse = (why: Refusal): void => {
    refusal = why
    sharedUntilMs = Number.NEGATIVE_INFINITY
  }
  const agreeUntil = (untilMs: number): void => {
    refusal = undefined
    sharedUntilMs = untilMs
  }

  /** Whether heartbeats of every live instance were received before the lease ended. */
  const knowsMembers = () => leaseUntilMs() - leaseMs >= reach.openedMs() + 1.25 * leaseMs

  /** False: there are facts to invalidate, and they cannot be. Connected, this instance agrees to nothing that lasts. */
  const invalidateCarried = (statements: Map<string, Written>): boolean => {
    const keys = findCarriedKeys(reach, statements)
    if (keys?.size === 0) return true
    if (keys === undefined || reach.isConnected()) return false
    bus?.invalidate([...keys])
    return true
  }

  const decide = (answer: Answer, statements: Map<string, Written>) => {
    statements.delete(instance)
    const isIncomplete = !knowsMembers() || answer.receivedMs < incompleteUntilMs
    const verdict = isIncomplete
      ? 'others_unknown'
      : !invalidateCarried(statements)
        ? 'events_missing'
        : judge({
            others: statements,
            known,
            applied: reach.progress(),
            answer,
            relevantMs: leaseUntilMs() - leaseMs - silentMs,
            leaseMs,
          })
    if (typeof verdict === 'number') agreeUntil(verdict)
    else refuse(verdict)
  }

  const exchange = async (statement: Statement): Promise<boolean> => {
    const sentMs = clock.monotonic()
    let reply: unknown
    let runId: string | undefined
    const answered = await redis?.runBypassingBreaker(async (connection) => {
      runId = connection.serverRunId
      reply = await connection.scripts.state(key, instance, statementsIn.encode(instance, statement), keptMs)
    }, answerMs)
    if (!answered) return false
    const [serverNowMs, wasKnown, all] = reply as [number, number, string[]]
    const answer = { serverNowMs, sentMs, receivedMs: clock.monotonic() }
    if (wasKnown === 0 || runId !== serverRunId || clockStepped(lastAnswer, answer)) {
      incompleteUntilMs = answer.receivedMs + 2 * leaseMs
    }
    serverRunId = runId
    lastAnswer = answer
    decide(answer, statementsIn.decode(all))
    return true
  }

  /** Agrees with itself. */
  const decideAlone = () => {
    if (known.size > 0) refuse('no_redis')
    else if (knowsMembers()) agreeUntil(Number.POSITIVE_INFINITY)
    else refuse('others_unknown')
  }

  const tick = async () => {
    updateMembers()
    reach.probe()
    if (redis === undefined) decideAlone()
    else if (!(await exchange(own())) && clock.monotonic() >= sharedUntilMs) refuse('redis_silent')
  }

  let timer: ReturnType<typeof setInterval> | undefined

  return {
    isShared: () => !reach.isConnected() && clock.monotonic() < sharedUntilMs,
    get refusal() {
      return clock.monotonic() < sharedUntilMs ? undefined : (refusal ?? 'redis_silent')
    },
    announce: async () => {
      if (redis === undefined) return
      for (const giveUpMs = clock.monotonic() + answerMs; clock.monotonic() < giveUpMs; ) {
        if (redis.serverRunId !== undefined && (await exchange(own()))) return
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    },
    start: (given) => {
      bus = given
      timer = setInterval(() => {
        if (busy) return
        busy = true
        void tick().finally(() => {
          busy = false
        })
      }, everyMs)
    },
    hooks: reach.hooks,
    close: async () => {
      clearInterval(timer)
      if (!reach.hasUnseenCommits() && reach.isConnected()) await exchange({ ...own(), state: 'left' })
    },
  }
}
