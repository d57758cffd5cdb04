import type { InvalidationKeys } from '../../access/invalidation/model.ts'
import type { PermissionRecheck, RecheckedPermission } from '../../access/permission-recheck.ts'
import { Fault } from '../../fault.ts'
import { createDeadline } from '../../kit/deadline.ts'
import { createEventStream, type EventStream, eventText, heartbeatText, retryText } from '../../kit/event-stream.ts'
import type { Generation } from '../model.ts'
import { createFinisher, type FindEach } from './final-state-loader.ts'
import { isOver, newsSince, type State } from './state.ts'
import { createWatched, type Known, type Watched } from './state-tracker.ts'
import { createRoster } from './subscriber-index.ts'

export const maxPerSession = 16
const maxPerPerson = 4 * maxPerSession
export const maxPerInstance = 5_000
/** Facts that the right to one takes in memory; more streams than it holds would push everybody else's out. */
export const factsOfOne = 5
/** How often everybody's right is looked at, whatever was heard. */
export const tickMs = 250
/** What somebody may still do that memory does not tell is to be known within this. */
const decidingMs = 1_000
/** Changes to projects concern nobody knows whom: within this they are looked into together. */
const gatheringMs = 50
const heartbeatMs = 15_000
/** A client that takes nothing for so long is let go. */
const stalledMs = 60_000
/** Clients come again after one to two of these, so that not all of an instance come to the next at once. */
const retryMs = 1_000

type Stream = {
  readonly generationId: string
  readonly right: RecheckedPermission
  readonly wire: EventStream
  told: State | undefined
  /** What `told` was brought up to. */
  toldOf: Known
  /** The last word, when it is there. */
  whole: Generation | undefined
  opened: boolean
  deciding: boolean
  ended: boolean
  sentAtMs: number
}

/**
 * The streams of this instance: each tells one client how far one generation is, until it is over.
 *
 * Promise: a client is told the newest, and in the end the whole generation; what it does not take in time is left out, not
 * queued. Before anything is sent the caller's right is looked at as for a new request, and when it is gone, or cannot be
 * known, the stream ends without another word: so does that of a generation that was deleted. Rights are looked at when a
 * change touches them and every 250 ms besides: in memory, and for all that memory does not tell in one statement. How it
 * degrades: without the bus memory tells nothing, so each look is a statement, and what happened is read every few seconds;
 * without Postgres all streams end, and clients ask again.
 */
export type Hub = {
  /** `told` is what the client knows. Throws a fault where there are too many. */
  open(generationId: string, right: RecheckedPermission, told: State | undefined): ReadableStream<Uint8Array>
  onInvalidated(touched: InvalidationKeys): void
  readonly onProgress: Watched['onProgress']
  readonly onQueueMoved: Watched['onQueueMoved']
  readonly size: number
  /** Ends all streams, and lets no more begin. */
  close(): void
}

export type HubDependencies = Pick<
  Parameters<typeof createWatched>[0],
  'findStates' | 'findPositions' | 'clock' | 'log'
> & {
  readonly rights: PermissionRecheck
  readonly findEach: FindEach
  readonly perSession?: number
  readonly perPerson?: number
  readonly perInstance?: number
  readonly random?: () => number
  /** Each calls back later; what it returns calls that off. */
  readonly after?: (ms: number, context: () => void) => () => void
  readonly every?: (ms: number, context: () => void) => () => void
}

const afterTimeout = (ms: number, context: () => void) => {
  const timer = setTimeout(context, ms)
  return () => clearTimeout(timer)
}
const everyInterval = (ms: number, context: () => void) => {
  const timer = setInterval(context, ms)
  return () => clearInterval(timer)
}

/** The last event of a stream. */
export const doneText = (generation: Generation): string => eventText('done', generation.status, generation)

export const createHub = ({
  findStates,
  findPositions,
  findEach,
  rights,
  clock,
  log,
  perSession = maxPerSession,
  perPerson = maxPerPerson,
  perInstance = maxPerInstance,
  random = Math.random,
  after = afterTimeout,
  every = everyInterval,
}: HubDependencies): Hub => {
  const roster = createRoster<Stream>({ perSession, perPerson, perInstance })
  let gathering = false
  let closed = false
  let stop: (() => void) | undefined

  const forget = (stream: Stream) => {
    if (!roster.remove(stream)) return
    stream.ended = true
    finisher.drop(stream)
    watched.drop(stream.generationId)
    if (roster.size > 0) return
    stop?.()
    stop = undefined
  }

  const end = (stream: Stream) => {
    forget(stream)
    stream.wire.end()
  }

  const write = (stream: Stream, text: string) => {
    // First, because whoever takes it may ask for more at once.
    stream.sentAtMs = clock.monotonic()
    stream.wire.write(text)
  }

  /** Tells what is news, to somebody who may hear it at this moment. */
  const tell = (stream: Stream) => {
    const known = watched.find(stream.generationId)
    if (known === 'gone') return end(stream)
    const silentMs = clock.monotonic() - stream.sentAtMs
    if (!stream.wire.isReady) return silentMs >= stalledMs ? end(stream) : undefined
    if (!stream.opened) {
      stream.opened = true
      return write(stream, retryText(retryMs * (1 + random())))
    }
    if (known !== undefined && isOver(known.status)) {
      if (stream.whole === undefined) return finisher.want(stream)
      forget(stream)
      write(stream, doneText(stream.whole))
      return stream.wire.end()
    }
    if (known !== undefined && known !== stream.toldOf) {
      const { news, told } = newsSince(stream.told, known)
      stream.told = told
      stream.toldOf = known
      if (news.length > 0) return write(stream, news.map(({ event, id, data }) => eventText(event, id, data)).join(''))
    }
    if (silentMs >= heartbeatMs) write(stream, heartbeatText)
  }

  const ask = async (unknown: readonly Stream[]) => {
    let verdicts: readonly boolean[] = []
    try {
      verdicts = await rights.gather(
        unknown.map(({ right }) => right),
        createDeadline(clock, decidingMs),
      )
    } catch (error) {
      log.debug({ error, streams: unknown.length }, 'rights could not be looked at')
    }
    for (const [index, stream] of unknown.entries()) {
      stream.deciding = false
      if (stream.ended) continue
      if (verdicts[index] === true) tell(stream)
      else end(stream)
    }
  }

  /** Tells those who may hear it what is news, and ends the others. */
  const settle = (some: readonly Stream[]) => {
    const unknown: Stream[] = []
    for (const stream of some) {
      if (stream.ended || stream.deciding) continue
      const holds = rights.peek(stream.right)
      if (holds === undefined) {
        stream.deciding = true
        unknown.push(stream)
      } else if (holds) tell(stream)
      else end(stream)
    }
    if (unknown.length > 0) void ask(unknown)
  }

  const settleAllSoon = () => {
    if (gathering) return
    gathering = true
    after(gatheringMs, () => {
      gathering = false
      settle(roster.all())
    })
  }

  const finisher = createFinisher<Stream>({
    findEach,
    clock,
    log,
    onFound: (stream, whole) => {
      if (whole === undefined) return end(stream)
      stream.whole = whole
      settle([stream])
    },
  })

  const watched = createWatched({
    findStates,
    findPositions,
    clock,
    after,
    log,
    onNews: (ids) => {
      for (const id of ids) settle(roster.concerned(`generation:${id}`))
    },
  })

  const tick = () => {
    settle(roster.all())
    watched.tick()
  }

  return {
    open: (generationId, right, told) => {
      if (closed) throw new Fault('server.stopping')
      roster.checkRoom(right)
      const wire = createEventStream({ onReady: () => settle([stream]), onGone: () => forget(stream) })
      const stream: Stream = {
        generationId,
        right,
        wire,
        told,
        toldOf: undefined,
        whole: undefined,
        opened: false,
        deciding: false,
        ended: false,
        sentAtMs: clock.monotonic(),
      }
      roster.add(stream)
      watched.add(generationId)
      stop ??= every(tickMs, tick)
      return wire.body
    },
    onInvalidated: (touched) => {
      if (roster.size === 0) return
      watched.onInvalidated(touched)
      if (touched === 'everything') return settle(roster.all())
      for (const fact of touched) {
        settle(roster.concerned(fact))
        if (fact.startsWith('project:')) settleAllSoon()
      }
    },
    onProgress: watched.onProgress,
    onQueueMoved: watched.onQueueMoved,
    get size() {
      return roster.size
    },
    close: () => {
      closed = true
      for (const stream of roster.all()) end(stream)
    },
  }
}
