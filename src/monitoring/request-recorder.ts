import type { RequestContext } from '../http/request-context.ts'
import type { Clock } from '../kit/clock.ts'
import type { Recorder, TimedMetric } from './recorder.ts'

type RequestMetric = Extract<TimedMetric, 'authentication' | 'registration' | 'authorization'>

/** Besides `api`, which every request counts as. */
const timedRoutes: ReadonlyMap<string, { readonly method: string; readonly metric: RequestMetric }> = new Map(
  (
    [
      ['POST /api/v1/auth/login', 'authentication'],
      ['POST /api/v1/auth/refresh', 'authentication'],
      ['POST /api/v1/auth/register', 'registration'],
      ['POST /api/v1/authorization/check', 'authorization'],
      ['POST /api/v1/authorization/check/batch', 'authorization'],
      ['POST /api/v1/authorization/explain', 'authorization'],
      ['POST /access/v1/evaluation', 'authorization'],
      ['POST /access/v1/evaluations', 'authorization'],
    ] as const
  ).map(([name, metric]) => {
    const [method = '', path = ''] = name.split(' ')
    return [path, { method, metric }]
  }),
)

/** One request that is answered. A status of 500 or more is a failure of this service. */
export type MeasuredRequest = (request: Request, context: RequestContext, status: number, ms: number) => void

/**
 * Times every request, refused ones included: from its arrival until its response is handed to the server, without the time
 * that a stream or a download then takes. The time in which a client sends its body counts for `api` alone: a slow client is
 * no sign of slow authentication.
 */
export const createRequestRecorder = (recorder: Recorder, clock: Pick<Clock, 'monotonic'>) => {
  let observe: MeasuredRequest | undefined
  return {
    answered: (request: Request, context: RequestContext, status: number): void => {
      const nowMs = clock.monotonic()
      const ms = nowMs - context.arrivedMs
      const failed = status >= 500
      recorder.record('api', ms, failed, nowMs)
      const timed = context.route === undefined ? undefined : timedRoutes.get(context.route)
      if (timed !== undefined && timed.method === request.method)
        recorder.record(timed.metric, ms - (context.bodyMs ?? 0), failed, nowMs)
      const { principal } = context
      if (principal !== undefined) recorder.seen('userId' in principal ? principal.userId : principal.keyId, nowMs)
      if (observe !== undefined) observe(request, context, status, ms)
    },
    /** Calls it for every request that was answered. */
    onAnswered: (next: MeasuredRequest): void => {
      const before = observe
      observe =
        before === undefined
          ? next
          : (...given) => {
              before(...given)
              next(...given)
            }
    },
  }
}

export type RequestRecorder = ReturnType<typeof createRequestRecorder>
