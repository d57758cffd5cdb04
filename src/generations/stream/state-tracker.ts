import type { InvalidationKeys } from '../../access/invalidation/model.ts'
import type { TopicMessages } from '../../access/invalidation/topics.ts'
import type { Clock } from '../../kit/clock.ts'
import { createDeadlines, type Deadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { GenerationState } from '../store.ts'
import { isFinal, type State } from './state.ts'

/** Changes reported within this time are read in one statement. */
const coalesceMs = 20
/** How often all states are read again, to make good lost messages. */
const resyncMs = 2_500
const minQueueReadMs = 1_000
const readTimeoutMs = 2_000

/** `gone`: the generation is deleted. Undefined: not read yet. */
export type TrackedState = State | 'gone' | undefined

/**
 * The states of the generations that clients of this instance watch.
 *
 * Guarantee: a state is at most a few seconds old. The progress of an attempt never goes back.
 * Cost: one statement at a time, for all generations together: the changed ones 20 ms after an invalidation, queue positions
 * at most once a second and only if the queue moved, and everything every 2.5 s.
 * Degrades: a lost message or a failed read is made good by the next read of everything.
 */
export type StateTracker = {
  find(id: string): TrackedState
  /** Calls are counted; each needs one `unwatch`. */
  watch(id: string): void
  unwatch(id: string): void
  onInvalidated(keys: InvalidationKeys): void
  onProgress(message: TopicMessages['progress']): void
  /** Jobs were added or leased: queue positions may have changed. */
  onQueueMoved(): void
  /** To be called a few times a second. */
  tick(): void
  readonly size: number
}

type Entry = {
  state: TrackedState
  watchers: number
  /** The furthest progress that was reported by the bus. */
  reported: { readonly attempt: number; readonly progress: number } | undefined
}

type Dependencies = {
  readonly findStates: (deadline: Deadline, ids: readonly string[]) => Promise<ReadonlyMap<string, GenerationState>>
  readonly findPositions: (deadline: Deadline, ids: readonly string[]) => Promise<ReadonlyMap<string, number>>
  readonly clock: Clock
  readonly after: (ms: number, callback: () => void) => () => void
  readonly onChange: (ids: readonly string[]) => void
  readonly log: Log
}

const toThousandths = (fraction: number) => Math.round(fraction * 1_000)
const prefix = 'generation:'

const isSame = (a: TrackedState, b: TrackedState): boolean =>
  a === b ||
  (typeof a === 'object' &&
    typeof b === 'object' &&
    a.status === b.status &&
    a.attempt === b.attempt &&
    a.progress === b.progress &&
    a.position === b.position)

const merge = ({ state, reported }: Entry, { status, attempt, progress }: GenerationState): State => {
  const before = typeof state === 'object' && state.attempt === attempt ? state : undefined
  const furthest = Math.max(
    toThousandths(progress),
    before?.progress ?? 0,
    reported?.attempt === attempt ? reported.progress : 0,
  )
  return {
    status,
    attempt,
    progress: status === 'processing' ? furthest : null,
    position: status === 'queued' ? (before?.position ?? null) : null,
  }
}

export const createStateTracker = ({
  findStates,
  findPositions,
  clock,
  after,
  onChange,
  log,
}: Dependencies): StateTracker => {
  const entries = new Map<string, Entry>()
  const toRead = new Set<string>()
  let queueMoved = false
  let queueReadAtMs = Number.NEGATIVE_INFINITY
  let resyncedAtMs = Number.NEGATIVE_INFINITY
  let reading = false
  let readScheduled = false

  const queuedIds = () =>
    [...entries].flatMap(([id, { state }]) => (typeof state === 'object' && state.status === 'queued' ? [id] : []))
  const isQueueReadDue = () => queueMoved && clock.monotonic() - queueReadAtMs >= minQueueReadMs
  const startDeadline = createDeadlines(clock)
  const readDeadline = () => startDeadline(readTimeoutMs)

  /** Stores the next state of each entry and reports those that changed. */
  const update = (ids: Iterable<string>, next: (entry: Entry, id: string) => TrackedState) => {
    const changed: string[] = []
    for (const id of ids) {
      const entry = entries.get(id)
      if (entry === undefined) continue
      const state = next(entry, id)
      if (isSame(entry.state, state)) continue
      if (typeof state === 'object' && state.status === 'queued' && state.position === null) queueMoved = true
      entry.state = state
      changed.push(id)
    }
    if (changed.length > 0) onChange(changed)
  }

  const readStates = async () => {
    const ids = [...toRead]
    toRead.clear()
    const states = await findStates(readDeadline(), ids)
    update(ids, (entry, id) => {
      const state = states.get(id)
      return state === undefined ? 'gone' : merge(entry, state)
    })
  }

  const readPositions = async () => {
    queueReadAtMs = clock.monotonic()
    queueMoved = false
    const ids = queuedIds()
    if (ids.length === 0) return
    const positions = await findPositions(readDeadline(), ids)
    update(positions.keys(), ({ state }, id) =>
      typeof state === 'object' && state.status === 'queued'
        ? { ...state, position: positions.get(id) ?? state.position }
        : state,
    )
  }

  const readDue = async () => {
    if (reading) return
    reading = true
    try {
      while (toRead.size > 0 || isQueueReadDue()) {
        if (toRead.size > 0) await readStates()
        if (isQueueReadDue()) await readPositions()
      }
    } catch (error) {
      log.debug({ error }, 'watched generations could not be read; the next resync reads them again')
    }
    reading = false
  }

  const scheduleRead = (id: string) => {
    const entry = entries.get(id)
    if (entry === undefined || (typeof entry.state === 'object' && isFinal(entry.state.status))) return
    toRead.add(id)
    if (readScheduled) return
    readScheduled = true
    after(coalesceMs, () => {
      readScheduled = false
      void readDue()
    })
  }

  return {
    find: (id) => entries.get(id)?.state,
    watch: (id) => {
      const entry = entries.get(id)
      if (entry === undefined) entries.set(id, { state: undefined, watchers: 1, reported: undefined })
      else entry.watchers += 1
      scheduleRead(id)
    },
    unwatch: (id) => {
      const entry = entries.get(id)
      if (entry === undefined) return
      entry.watchers -= 1
      if (entry.watchers > 0) return
      entries.delete(id)
      toRead.delete(id)
    },
    onInvalidated: (keys) => {
      if (keys === 'everything') {
        queueMoved = true
        for (const id of entries.keys()) scheduleRead(id)
        return
      }
      for (const key of keys) {
        if (!key.startsWith(prefix)) continue
        queueMoved = true
        scheduleRead(key.slice(prefix.length))
      }
    },
    onProgress: ({ generationId: id, attempt, fraction }) => {
      const entry = entries.get(id)
      if (entry === undefined) return
      const { reported, state } = entry
      const progress = toThousandths(fraction)
      const isStale =
        reported !== undefined &&
        (reported.attempt > attempt || (reported.attempt === attempt && reported.progress >= progress))
      if (isStale) return
      entry.reported = { attempt, progress }
      if (typeof state !== 'object') return
      if (state.status !== 'processing' || state.attempt < attempt) scheduleRead(id)
      else if (state.attempt === attempt) {
        update([id], () => ({ ...state, progress: Math.max(state.progress ?? 0, progress) }))
      }
    },
    onQueueMoved: () => {
      queueMoved = true
    },
    tick: () => {
      if (entries.size > 0 && clock.monotonic() - resyncedAtMs >= resyncMs) {
        resyncedAtMs = clock.monotonic()
        queueMoved = true
        for (const id of entries.keys()) toRead.add(id)
      }
      void readDue()
    },
    get size() {
      return entries.size
    },
  }
}
