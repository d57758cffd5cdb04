/**
 * One answer of server-sent events (WHATWG HTML §9.2).
 *
 * Promise: nothing waits in here. What is written goes to a client that has taken all before; while `isReady` says no, it
 * is refused and the writer keeps the newest to itself, so a client that does not read costs no memory.
 */
export type EventStream = {
  readonly body: ReadableStream<Uint8Array>
  /** Whether the client has taken all it was given. */
  readonly isReady: boolean
  /** False: it was not taken. */
  write(text: string): boolean
  /** Idempotent; not told to `onGone`. */
  end(): void
}

/** `data` goes out as JSON, which has no line breaks. */
export const formatEvent = (event: string, id: string, data: unknown): string =>
  `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`

/** How long a client is to wait before it connects again. */
export const formatRetry = (ms: number): string => `retry: ${Math.round(ms)}\n\n`

/** A comment: it shows either side that the other is there. */
export const heartbeatComment = ':\n\n'

const encoder = new TextEncoder()

export const createEventStream = ({
  onReady,
  onGone,
}: {
  onReady: () => void
  /** The client went away. */
  onGone: () => void
}): EventStream => {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  let ready = false
  const body = new ReadableStream<Uint8Array>(
    {
      start: (given) => {
        controller = given
      },
      pull: () => {
        ready = true
        onReady()
      },
      cancel: () => {
        controller = undefined
        onGone()
      },
    },
    // Asked for more only when somebody waits for it.
    { highWaterMark: 0 },
  )
  return {
    body,
    get isReady() {
      return ready && controller !== undefined
    },
    write: (text) => {
      if (!ready || controller === undefined) return false
      ready = false
      controller.enqueue(encoder.encode(text))
      return true
    },
    end: () => {
      controller?.close()
      controller = undefined
    },
  }
}
