import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import type { MeasuredRequest } from './request-recorder.ts'

/** Refusals (4xx) are logged this many times as often as successes. */
const refusalFactor = 10
/** Most lines of refusals in a second. */
const maxRefusalsPerSecond = 10

type Principal = 'anonymous' | 'person' | 'service'

type Settings = {
  /** One of this many successful requests is logged. 1: all. 0: there is no access log. */
  readonly every: number
  readonly log: Pick<Log, 'info'>
  readonly clock: Pick<Clock, 'monotonic'>
}

/**
 * The access log: one line of level `info` a request, with the path of its route, never with the path of the request or an address.
 *
 * Guarantee: every 5xx is logged. Of the other requests one in `every` is, of refusals (4xx) ten times
 * as many and at most 10 lines a second; `omitted` counts the refusals since the last such line that have none. Cost of a request
 * without a line: one comparison and one division. Undefined where it is off, so that nothing is called.
 */
export const createAccessLog = ({ every, log, clock }: Settings): MeasuredRequest | undefined => {
  if (every === 0) return undefined
  const refusalEvery = Math.ceil(every / refusalFactor)
  let successes = 0
  let refusals = 0
  let omitted = 0
  let second = Number.NEGATIVE_INFINITY
  let linesInSecond = 0

  /** Counts a refusal; true where it gets a line. */
  const admitRefusal = (): boolean => {
    refusals += 1
    if ((refusals - 1) % refusalEvery === 0) {
      const now = Math.floor(clock.monotonic() / 1_000)
      if (now !== second) {
        second = now
        linesInSecond = 0
      }
      if (linesInSecond < maxRefusalsPerSecond) {
        linesInSecond += 1
        return true
      }
    }
    omitted += 1
    return false
  }

  return ({ method }, { route, principal, requestId }, status, ms) => {
    const isRefusal = status >= 400 && status < 500
    if (status < 400) {
      successes += 1
      if ((successes - 1) % every !== 0) return
    } else if (isRefusal && !admitRefusal()) return
    const kind: Principal = principal === undefined ? 'anonymous' : 'userId' in principal ? 'person' : 'service'
    const counted = isRefusal ? { omitted } : {}
    if (isRefusal) omitted = 0
    log.info(
      {
        method,
        route: route ?? null,
        status,
        duration_ms: Math.round(ms * 1_000) / 1_000,
        principal: kind,
        request_id: requestId,
        ...counted,
      },
      'request answered',
    )
  }
}
