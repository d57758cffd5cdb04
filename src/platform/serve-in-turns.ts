import type { MaybePromise } from '../kit/maybe-promise.ts'

/** Answered before the event loop gets a turn: about 10 ms of decisions from memory. */
const requestsPerTurn = 512

/**
 * Lets the event loop run its timers and the messages of other threads between requests, however many connections are ready.
 *
 * Bun 1.4 serves up to 48 × 1,024 ready connections without a turn. A client that sends again when it is answered is ready
 * again within that time, so with thousands of them a turn takes seconds, and every deadline, heartbeat and verified token waits
 * for it. Here requests beyond `perTurn` wait for a later turn, in the order in which they came. A connection whose request
 * waits is not ready, so the runtime comes to its turn.
 *
 * Cost: a counter for each request, and one `setImmediate` for every `perTurn` of them. `serve` is given the time at which a
 * request came that had to wait.
 */
export const serveInTurns = <Q, A>(
  serve: (request: Q, arrivedMs?: number) => MaybePromise<A>,
  perTurn = requestsPerTurn,
): ((request: Q) => MaybePromise<A>) => {
  let served = 0
  let isTurnDue = false
  let waiting: (() => void)[] = []

  const beginTurn = () => {
    isTurnDue = false
    served = 0
    const released = waiting.slice(0, perTurn)
    waiting = waiting.slice(perTurn)
    for (const release of released) release()
    served = released.length
    if (waiting.length > 0) askForTurn()
  }
  const askForTurn = () => {
    if (isTurnDue) return
    isTurnDue = true
    setImmediate(beginTurn)
  }

  return (request) => {
    if (served < perTurn && waiting.length === 0) {
      served += 1
      return serve(request)
    }
    askForTurn()
    const arrivedMs = performance.now()
    const turn = new Promise<void>((resolve) => {
      waiting.push(resolve)
    })
    return turn.then(() => serve(request, arrivedMs))
  }
}
