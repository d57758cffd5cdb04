import type { InvalidationKeys } from '../../access/invalidation/model.ts'
import type { TopicMessages } from '../../access/invalidation/topics.ts'
import type { Clock } from '../../kit/clock.ts'
import { createDeadline, type Deadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { GenerationState } from '../store.ts'
import { isOver, type State } from './state.ts'

/** What is heard within this is read together. */
const soonMs = 20
/** All is read again this often, whatever was heard. */
const rereadMs = 2_500
const queueMs = 1_000
const readingMs = 2_000

/** `gone`: there is no such generation any more. */
export type Known = State | 'gone' | undefined

/**
 * How far the generations are that somebody here watches.
 *
 * Promise: what is read is read for all of them in one statement, one at a time, however many there are: when one of them
 * was changed, the queue no more than once a second and only when it moved, and everything every few seconds. So a message
 * that was missed, or a read that failed, is made good by the next. Progress of an attempt does not go back.
 */
export type Watched = {
  find(id: string): Known
  add(id: string): void
  drop(id: string): void
  onInvalidated(touched: InvalidationKeys): void
  /** For messages of the bus: a generation, the attempt, and how far that is. */
  onProgress(message: TopicMessages['progress']): void
  /** There are more jobs, or fewer. */
  onQueueMoved(): void
  /** Call it a few times a second. */
  tick(): void
  readonly size: number
}

type Entry = {
  known: Known
  watchers: number
  /** The furthest that was heard. */
  heard: { readonly attempt: number; readonly progress: number } | undefined
}

type Dependencies = {
  readonly findStates: (deadline: Deadline, ids: readonly string[]) => Promise<ReadonlyMap<string, GenerationState>>
  readonly findPositions: (deadline: Deadline, ids: readonly string[]) => Promise<ReadonlyMap<string, number>>
  readonly clock: Clock
  readonly after: (ms: number, context: () => void) => () => void
  /** Of these something is known that was not. */
  readonly onNews: (ids: readonly string[]) => void
  readonly log: Log
}

const thousandths = (fraction: number) => Math.round(fraction * 1_000)
const prefix = 'generation:'

export const createWatched = ({ findStates, findPositions, clock, after, onNews, log }: Dependencies): Watched => {
  const entries = new Map<string, Entry>()
  const changed = new Set<string>()
  let queueMoved = false
  let queueReadMs = Number.NEGATIVE_INFINITY
  let allReadMs = Number.NEGATIVE_INFINITY
  let looking = false
  let scheduled = false

  const inQueue = () =>
    [...entries].flatMap(([id, { known }]) => (typeof known === 'object' && known.status === 'queued' ? [id] : []))
  const isQueueDue = () => queueMoved && clock.monotonic() - queueReadMs >= queueMs
  const within = () => createDeadline(clock, readingMs)

  const merge = ({ known, heard }: Entry, { status, attempt, progress }: GenerationState): State => {
    const before = typeof known === 'object' && known.attempt === attempt ? known : undefined
    const furthest = Math.max(
      thousandths(progress),
      before?.progress ?? 0,
      heard?.attempt === attempt ? heard.progress : 0,
    )
    return {
      status,
      attempt,
      progress: status === 'processing' ? furthest : null,
      position: status === 'queued' ? (before?.position ?? null) : null,
    }
  }

  const isSame = (a: Known, b: Known): boolean =>
    a === b ||
    (typeof a === 'object' &&
      typeof b === 'object' &&
      a.status === b.status &&
      a.attempt === b.attempt &&
      a.progress === b.progress &&
      a.position === b.position)

  /** Learns what was found, and tells of what is new in it. */
  const learn = (ids: Iterable<string>, next: (entry: Entry, id: string) => Known) => {
    const news: string[] = []
    for (const id of ids) {
      const entry = entries.get(id)
      if (entry === undefined) continue
      const known = next(entry, id)
      if (isSame(entry.known, known)) continue
      if (typeof known === 'object' && known.status === 'queued' && known.position === null) queueMoved = true
      entry.known = known
      news.push(id)
    }
    if (news.length > 0) onNews(news)
  }

  const readChanged = async () => {
    const ids = [...changed]
    changed.clear()
    const found = await findStates(within(), ids)
    learn(ids, (entry, id) => {
      const state = found.get(id)
      return state === undefined ? 'gone' : merge(entry, state)
    })
  }

  const readQueue = async () => {
    queueReadMs = clock.monotonic()
    queueMoved = false
    const ids = inQueue()
    if (ids.length === 0) return
    const found = await findPositions(within(), ids)
    learn(found.keys(), ({ known }, id) =>
      typeof known === 'object' && known.status === 'queued'
        ? { ...known, position: found.get(id) ?? known.position }
        : known,
    )
  }

  const look = async () => {
    if (looking) return
    looking = true
    try {
      while (changed.size > 0 || isQueueDue()) {
        if (changed.size > 0) await readChanged()
        if (isQueueDue()) await readQueue()
      }
    } catch (error) {
      // All is read again soon.
      log.debug({ error }, 'watched generations could not be read')
    }
    looking = false
  }

  const touch = (id: string) => {
    const entry = entries.get(id)
    if (entry === undefined || (typeof entry.known === 'object' && isOver(entry.known.status))) return
    changed.add(id)
    if (scheduled) return
    scheduled = true
    after(soonMs, () => {
      scheduled = false
      void look()
    })
  }

  return {
    find: (id) => entries.get(id)?.known,
    add: (id) => {
      const entry = entries.get(id)
      if (entry === undefined) entries.set(id, { known: undefined, watchers: 1, heard: undefined })
      else entry.watchers += 1
      touch(id)
    },
    drop: (id) => {
      const entry = entries.get(id)
      if (entry === undefined) return
      entry.watchers -= 1
      if (entry.watchers > 0) return
      entries.delete(id)
      changed.delete(id)
    },
    onInvalidated: (touched) => {
      if (touched === 'everything') {
        queueMoved = true
        for (const id of entries.keys()) touch(id)
        return
      }
      for (const key of touched) {
        if (!key.startsWith(prefix)) continue
        queueMoved = true
        touch(key.slice(prefix.length))
      }
    },
    onProgress: ({ generationId: id, attempt, fraction }) => {
      const entry = entries.get(id)
      if (entry === undefined) return
      const { heard, known } = entry
      const progress = thousandths(fraction)
      if (heard !== undefined && (heard.attempt > attempt || (heard.attempt === attempt && heard.progress >= progress)))
        return
      entry.heard = { attempt, progress }
      if (typeof known !== 'object') return
      if (known.status !== 'processing' || known.attempt < attempt) touch(id)
      else if (known.attempt === attempt) {
        learn([id], () => ({ ...known, progress: Math.max(known.progress ?? 0, progress) }))
      }
    },
    onQueueMoved: () => {
      queueMoved = true
    },
    tick: () => {
      if (entries.size > 0 && clock.monotonic() - allReadMs >= rereadMs) {
        allReadMs = clock.monotonic()
        queueMoved = true
        for (const id of entries.keys()) changed.add(id)
      }
      void look()
    },
    get size() {
      return entries.size
    },
  }
}
