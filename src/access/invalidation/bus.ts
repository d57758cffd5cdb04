import type { Clock } from '../../kit/clock.ts'
import { createHistogram, type Histogram } from '../../kit/histogram.ts'
import type { FactKey } from '../policy/facts/model.ts'

/** How long an instance believes its own memory after it has shown that it hears of changes. */
export const leaseMs = 1_000
export const heartbeatMs = 250
/** More than two clocks of one rate can differ by in a lease. */
const marginMs = 20
/** A connection on which not even one's own heartbeat comes back is given up. */
const silentMs = 3_000
/** How many names of events go into one message: a notification takes 8,000 bytes. */
const maxAcknowledged = 300

/** Where all instances hear everything, and where one hears what is for it alone. */
export const commonChannel = 'velro'
export const channelOf = (instance: string): string => `velro:${instance}`

/** What a change touched: names of facts, or too many to name. */
export type InvalidationKeys = readonly FactKey[] | 'everything'
export type InvalidationEvent = { readonly id: string; readonly keys: InvalidationKeys }

/** What the bus needs of the outside: a fake in tests, Postgres else. */
export type BusConnection = {
  send(channel: string, payload: string): Promise<void>
  /** An event whose names were too many to send; undefined when its row is gone. */
  readEvent(id: string): Promise<InvalidationEvent | undefined>
  /** Every event the outer cache has not confirmed yet. */
  readPendingEvents(): Promise<readonly InvalidationEvent[]>
  /** Gives up a connection that is silent. */
  restart(): void
}

/** What an instance does about what it hears. Nothing here may wait: what was told is done when it returns. */
export type BusHandlers = {
  onEvent(event: InvalidationEvent): void
  /** Anything may have been missed; `standing` are the events whose touched facts the outer cache may still have. */
  onReset(pendingInvalidations: readonly InvalidationEvent[]): void
  /** The outer cache has forgotten what these touched; `incarnation` is the server that was asked to. */
  onConfirmed(ids: readonly string[], incarnation: string): void
}

/** A change that is about to be committed. */
export type CommitWait = {
  /**
   * Call it when the commit was acknowledged. Resolves when every instance that may believe its memory has applied the
   * change, or when none that has not can believe it any more: at the latest a lease after the commit.
   */
  acknowledgedByAll(): Promise<void>
  /** The change was not committed. */
  abandon(): void
}

/**
 * How instances hear of each other's changes, and when one may believe its own memory.
 *
 * Events arrive in the order of commits. Each instance sends itself a heartbeat among them; when that comes back, it has
 * applied every change committed before, so its memory is good for a lease counted from when that heartbeat was sent.
 * Whoever changes something waits until every member (an instance heard within two leases) has said that it applied the
 * change, or a lease since the commit, whichever is first: who missed it has no lease by then. Who are members is looked
 * up when one's own event comes back, because by then every heartbeat sent before it has come too. Those sent before one
 * began to listen have not: for a lease from then on there may be members one does not know, and they are waited for.
 *
 * Promise: after `heard()` no instance's lease began before the change without that change having been applied there.
 * Clocks need equal rates, not equal times. How it degrades: without its line an instance has no lease after a second and
 * its own changes take a lease each; a member that is frozen costs others' changes a lease each, for two leases.
 */
export type Bus = {
  readonly instance: string
  /** Until when, on the monotonic clock, what this instance remembers may be believed. */
  readonly lease: { readonly untilMs: number }
  registerCommit(eventId: string): CommitWait
  /** For the line: what it heard, and when it was made and lost. */
  readonly connection: { onMessage(payload: string): void; onOpen(): void; onLost(): void }
  /**
   * Hears, from now on, messages of a kind of its own: the words behind that kind. Sent by `pg_notify` on the common channel,
   * they come in the order of commits; what is sent while there is no line is never heard.
   */
  on(kind: string, hear: (words: readonly string[]) => void): void
  /** Instances heard of lately, without this one. */
  members(): string[]
  readonly counts: Readonly<BusCounts>
  /** How long this instance's own changes were waited for, in milliseconds. */
  readonly waits: Pick<Histogram, 'count' | 'max' | 'quantile'>
  close(): Promise<void>
}

/** Since the start. */
export type BusCounts = {
  /** Changes heard of, those of this instance among them. */
  events: number
  commits: number
  /** Waits for the others: until all had applied the change, or until a lease was over. */
  acknowledged: number
  lapsed: number
}

type Wait = {
  readonly acked: Set<string>
  /** Undefined until one's own event has come back. */
  missing: Set<string> | undefined
  done: () => void
}

type Options = {
  readonly instance: string
  readonly clock: Clock
  readonly connection: BusConnection
  readonly handlers: BusHandlers
  /** Off: changes are not waited for, and the promise is not kept. For the proof that it takes this to keep it. */
  readonly acknowledge?: boolean
  /** Calls back after a while; what it returns calls that off. */
  readonly after?: (ms: number, call: () => void) => () => void
}

/** Stands for members that were not heard yet; no instance is called so. */
const strangers = ''

const afterTimeout = (ms: number, call: () => void) => {
  const timer = setTimeout(call, ms)
  return () => clearTimeout(timer)
}
/** The names of an event as they are stored and sent: `*` is everything. */
export const toInvalidationKeys = (keys: readonly string[]): InvalidationKeys =>
  keys[0] === '*' ? 'everything' : (keys as FactKey[])

export const createBus = ({
  instance,
  clock,
  connection,
  handlers,
  acknowledge = true,
  after = afterTimeout,
}: Options): Bus => {
  const lease = { untilMs: Number.NEGATIVE_INFINITY }
  const lastHeardMs = new Map<string, number>()
  const waits = new Map<string, Wait>()
  const counts: BusCounts = { events: 0, commits: 0, acknowledged: 0, lapsed: 0 }
  const waitsMs = createHistogram()
  const beats = new Map<string, number>()
  let beatNumber = 0
  let lastBackMs = Number.POSITIVE_INFINITY
  let openedAtMs = Number.POSITIVE_INFINITY
  let beating: ReturnType<typeof setInterval> | undefined
  let closed = false
  /** Counts connections: what belongs to an earlier one is void. */
  let era = 0
  /** Messages that wait for one whose names are being fetched. */
  let backlog: string[] | undefined
  /** Acknowledgements of this moment, by whom they are for. */
  let owed: Map<string, string[]> | undefined

  const send = (channel: string, payload: string) => connection.send(channel, payload).catch(() => {})

  const members = () => {
    const sinceMs = clock.monotonic() - 2 * leaseMs
    for (const [member, heardMs] of lastHeardMs) if (heardMs < sinceMs) lastHeardMs.delete(member)
    return [...lastHeardMs.keys()]
  }

  const beat = () => {
    if (clock.monotonic() - lastBackMs > silentMs) return connection.restart()
    beatNumber += 1
    const seal = `${era}.${beatNumber}`
    beats.set(seal, clock.monotonic())
    void send(commonChannel, `beat ${instance} ${seal}`)
  }

  const settle = (wanted: Wait) => {
    if (wanted.missing?.size === 0) wanted.done()
  }

  const acknowledgeTo = (writer: string, id: string) => {
    if (owed === undefined) {
      owed = new Map()
      // Events come in bursts: one answer for all that were heard at this moment.
      queueMicrotask(() => {
        const due = owed ?? new Map<string, string[]>()
        owed = undefined
        for (const [to, ids] of due) {
          while (ids.length > 0) void send(channelOf(to), `ack ${instance} ${ids.splice(0, maxAcknowledged).join(' ')}`)
        }
      })
    }
    const ids = owed.get(writer)
    if (ids === undefined) owed.set(writer, [id])
    else ids.push(id)
  }

  const apply = (id: string, writer: string, touched: InvalidationKeys) => {
    counts.events += 1
    handlers.onEvent({ id, keys: touched })
    if (writer !== instance) {
      if (writer !== '-') acknowledgeTo(writer, id)
      return
    }
    const own = waits.get(id)
    if (own === undefined) return
    const missing = new Set(members().filter((member) => !own.acked.has(member)))
    own.missing = missing
    const strangersForMs = openedAtMs + leaseMs + marginMs - clock.monotonic()
    if (strangersForMs > 0) {
      missing.add(strangers)
      after(strangersForMs, () => {
        missing.delete(strangers)
        settle(own)
      })
    }
    settle(own)
  }

  const fetchAndApply = async (id: string, writer: string) => {
    const heardIn = era
    backlog = []
    const event = await connection.readEvent(id).catch(() => undefined)
    if (era !== heardIn) return
    apply(id, writer, event?.keys ?? 'everything')
    goOn()
  }

  const topics: Record<string, (words: readonly string[]) => void> = {
    event: ([id = '', writer = '-', ...keys]) =>
      keys[0] === '*' ? void fetchAndApply(id, writer) : apply(id, writer, toInvalidationKeys(keys)),
    beat: ([from = '', seal = '']) => {
      if (from !== instance) return void lastHeardMs.set(from, clock.monotonic())
      const sentMs = beats.get(seal)
      if (sentMs === undefined) return
      for (const earlier of beats.keys()) {
        beats.delete(earlier)
        if (earlier === seal) break
      }
      lastBackMs = clock.monotonic()
      lease.untilMs = sentMs + leaseMs
    },
    ack: ([from = '', ...ids]) => {
      for (const id of ids) {
        const own = waits.get(id)
        if (own === undefined) continue
        own.acked.add(from)
        own.missing?.delete(from)
        settle(own)
      }
    },
    bye: ([from = '']) => {
      lastHeardMs.delete(from)
      for (const own of waits.values()) {
        own.missing?.delete(from)
        settle(own)
      }
    },
    confirmed: ([incarnation = '', ...ids]) => handlers.onConfirmed(ids, incarnation),
  }

  const handle = (payload: string) => {
    const [kind = '', ...words] = payload.split(' ')
    if (Object.hasOwn(topics, kind)) topics[kind]?.(words)
  }

  /** Takes up the messages that came meanwhile, until one of them has to be waited for again. */
  const goOn = () => {
    const waiting = backlog ?? []
    backlog = undefined
    for (const [index, payload] of waiting.entries()) {
      handle(payload)
      if (backlog !== undefined) {
        backlog = [...(backlog as string[]), ...waiting.slice(index + 1)]
        return
      }
    }
  }

  const open = async () => {
    if (closed) return
    era += 1
    const opened = era
    backlog = []
    beats.clear()
    openedAtMs = clock.monotonic()
    // Begun now, because what is read next may hang. A heartbeat that comes back first waits behind it.
    lastBackMs = openedAtMs
    clearInterval(beating)
    beating = setInterval(beat, heartbeatMs)
    try {
      const pendingInvalidations = await connection.readPendingEvents()
      if (era !== opened || closed) return
      handlers.onReset(pendingInvalidations)
    } catch {
      if (era === opened) connection.restart()
      return
    }
    goOn()
    beat()
  }

  return {
    instance,
    lease,
    on: (kind, hear) => {
      if (Object.hasOwn(topics, kind)) throw new Error(`Messages of the kind "${kind}" are heard already`)
      topics[kind] = hear
    },
    members,
    counts,
    waits: waitsMs,
    connection: {
      onMessage: (payload) => {
        if (backlog === undefined) handle(payload)
        else backlog.push(payload)
      },
      onOpen: () => void open(),
      onLost: () => {
        era += 1
        clearInterval(beating)
        beats.clear()
      },
    },
    registerCommit: (eventId) => {
      let done = () => {}
      const everybody = new Promise<void>((resolve) => {
        done = resolve
      })
      waits.set(eventId, { acked: new Set(), missing: undefined, done })
      return {
        acknowledgedByAll: async () => {
          counts.commits += 1
          if (acknowledge) {
            const sinceMs = clock.monotonic()
            let end: 'acknowledged' | 'lapsed' = 'acknowledged'
            const callOff = after(leaseMs + marginMs, () => {
              end = 'lapsed'
              done()
            })
            await everybody
            callOff()
            counts[end] += 1
            waitsMs.record(clock.monotonic() - sinceMs)
          }
          waits.delete(eventId)
        },
        abandon: () => void waits.delete(eventId),
      }
    },
    close: async () => {
      closed = true
      clearInterval(beating)
      // Nobody waits for this instance any more, so what comes back now must not give it a lease again.
      beats.clear()
      lease.untilMs = Number.NEGATIVE_INFINITY
      await send(commonChannel, `bye ${instance}`)
    },
  }
}
