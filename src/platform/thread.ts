export type Thread<M> = {
  post(message: M): void
  /** Ends it at once. `onEnd` is not called. */
  end(): void
}

type Options<R> = {
  readonly url: URL
  readonly onMessage: (message: R) => void
  /** It failed or exited. Called once. */
  readonly onEnd: (reason: string) => void
}

/** Starts a thread, with its own event loop, which runs the file at `url`. */
export const startThread = <M, R>({ url, onMessage, onEnd }: Options<R>): Thread<M> => {
  const worker = new Worker(url.href, { type: 'module' })
  let ended = false
  const end = (reason: string) => {
    if (ended) return
    ended = true
    worker.terminate()
    onEnd(reason)
  }
  worker.onmessage = ({ data }: MessageEvent<R>) => {
    if (!ended) onMessage(data)
  }
  worker.onerror = (event) => {
    event.preventDefault?.()
    end(event.message)
  }
  // Bun only: a thread that exits without an error.
  worker.addEventListener('close', () => end('it exited'))
  return {
    post: (message) => {
      if (!ended) worker.postMessage(message)
    },
    end: () => {
      ended = true
      worker.terminate()
    },
  }
}
