import type { Recheck } from '../access/guard/rechecked.ts'
import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import { createDeadlines } from '../kit/deadline.ts'
import { createEventStream, type EventStream, formatEvent, formatRetry } from '../kit/event-stream.ts'
import type { Log } from '../platform/log.ts'

/** How often figures are sent. */
export const sendMs = 1_000
/** Streams of figures that one instance keeps open. */
export const maxStreams = 50
const recheckMs = 1_000
const retryMs = 2_000

type OpenStream = {
  readonly events: EventStream
  readonly recheck: Recheck
  isChecking: boolean
  /** Sent in front of the first events. */
  opening: string
}

/** An event of a stream: its name and its data. */
export type StreamEvent = readonly [name: string, data: unknown]

/**
 * Sends the figures each second, as server-sent events.
 *
 * Guarantee: before every write the credential is checked again, as for a new request; a stream whose credential is no longer
 * admitted, or cannot be checked, ends without another write, also where its client does not read. Such a client gets the newest
 * figures once it reads.
 * Cost: figures are collected once a second for all streams, and not at all without one.
 */
export const createFigureStreams = ({
  collect,
  clock,
  log,
  everyMs = sendMs,
}: {
  /** The events to send now. */
  collect: () => Promise<readonly StreamEvent[]>
  clock: Clock
  log: Log
  everyMs?: number
}) => {
  const startDeadline = createDeadlines(clock)
  const streams = new Set<OpenStream>()
  let timer: ReturnType<typeof setInterval> | undefined
  let isClosed = false
  let sequence = 0
  let isCollecting = false

  const drop = (stream: OpenStream) => {
    streams.delete(stream)
    if (streams.size > 0) return
    clearInterval(timer)
    timer = undefined
  }

  const deliver = async (stream: OpenStream, text: string) => {
    if (stream.isChecking) return
    stream.isChecking = true
    const isAdmitted = await stream.recheck(startDeadline(recheckMs))
    stream.isChecking = false
    if (!streams.has(stream)) return
    if (isAdmitted) {
      if (stream.events.write(stream.opening + text)) stream.opening = ''
    } else {
      stream.events.end()
      drop(stream)
    }
  }

  const send = async (to: Iterable<OpenStream>) => {
    const events = await collect()
    sequence += 1
    const text = events.map(([name, data]) => formatEvent(name, String(sequence), data)).join('')
    await Promise.all([...to].map((stream) => deliver(stream, text)))
  }

  const logFailure = (error: unknown) => log.warn({ error }, 'figures could not be sent to streams')
  const sendAll = async () => {
    if (isCollecting) return
    isCollecting = true
    await send(streams).catch(logFailure)
    isCollecting = false
  }

  return {
    /** Throws `performance.streams_full`, and `server.stopping` once closed. */
    open: (recheck: Recheck): ReadableStream<Uint8Array> => {
      if (isClosed) throw new Fault('server.stopping')
      if (streams.size >= maxStreams) throw new Fault('performance.streams_full', { extensions: { limit: maxStreams } })
      let isFirst = true
      const stream: OpenStream = {
        events: createEventStream({
          onReady: () => {
            if (!isFirst) return
            isFirst = false
            send([stream]).catch(logFailure)
          },
          onDisconnect: () => drop(stream),
        }),
        recheck,
        isChecking: false,
        opening: formatRetry(retryMs),
      }
      streams.add(stream)
      timer ??= setInterval(sendAll, everyMs)
      return stream.events.body
    },
    get size() {
      return streams.size
    },
    /** Ends all streams and refuses new ones. */
    close: (): void => {
      isClosed = true
      for (const stream of [...streams]) {
        stream.events.end()
        drop(stream)
      }
    },
  }
}

export type FigureStreams = ReturnType<typeof createFigureStreams>
