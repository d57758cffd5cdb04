/**
 * One response of server-sent events (WHATWG HTML §9.2).
 *
 * Guarantee: backpressure without a buffer. `write` is accepted only after the client has consumed the previous write;
 * otherwise it is refused, and the writer keeps the latest state. A client that does not read costs no memory.
 */
export type EventStream = {
  readonly body: ReadableStream<Uint8Array>
  /** Whether the next `write` is accepted. */
  readonly isReady: boolean
  /** Returns false when the text was refused. */
  write(text: string): boolean
  /** Idempotent. Does not call `onDisconnect`. */
  end(): void
}

/** `data` is sent as JSON, which has no line breaks. */
export const formatEvent = (event: string, id: string, data: unknown): string =>
  `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`

/** Sets the client's delay before it reconnects. */
export const formatRetry = (ms: number): string => `retry: ${Math.round(ms)}\n\n`

/** A comment line. Clients ignore it; either side notices a dead connection by it. */
export const heartbeatComment = ':\n\n'

const encoder = new TextEncoder()

export const createEventStream = ({
  onReady,
  onDisconnect,
}: {
  onReady: () => void
  /** The client closed the connection. */
  onDisconnect: () => void
}): EventStream => {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  let ready = false
  const body = new ReadableStream<Uint8Array>(
    {
      start: (created) => {
        controller = created
      },
      pull: () => {
        ready = true
        onReady()
      },
      cancel: () => {
        controller = undefined
        onDisconnect()
      },
    },
    // No read-ahead: `pull` is called only when the client waits for data.
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
