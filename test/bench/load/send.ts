import { type Costs, type Driven, drive, type Watched } from './drive.ts'
import type { KindResult, LoadResult, Plan, Slice } from './plan.ts'

/** What to send, and how hard. */
export type Load = {
  readonly url: string
  readonly method?: 'GET' | 'POST'
  readonly headers?: { readonly authorization?: string }
  readonly body?: unknown
  /** Of a right answer. Default 200. */
  readonly status?: number
  readonly connections: number
  readonly seconds: number
  /** A fixed rate; latencies then count from when a request was due. Default: as fast as the answers come. */
  readonly perSecond?: number
  readonly watched?: Watched
}

export type Measured = {
  readonly requests: number
  /** Counts of wrong answers and of connections lost, by kind. */
  readonly errors: Readonly<Record<string, number>>
  readonly perSecond: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly costs?: Costs
  readonly kinds?: Readonly<Record<string, KindResult>>
  readonly verdicts?: Pick<LoadResult, 'allowed' | 'denied' | 'judged' | 'staleAllows'>
  readonly slices?: readonly Slice[]
  /** As a share of one core. */
  readonly generatorCpu?: number
}

export const toMeasured = (driven: Driven): Measured => {
  const { requests, errors, answered, seconds, all, costs, kinds, slices, generatorCpu } = driven
  const { allowed, denied, judged, staleAllows } = driven
  const { p50Ms, p95Ms, p99Ms } = all
  return {
    ...{ requests, errors, perSecond: answered / seconds, p50Ms, p95Ms, p99Ms },
    ...{ costs, kinds, slices, generatorCpu, verdicts: { allowed, denied, judged, staleAllows } },
  }
}

/** A plan without its destination. */
export type Requests = Omit<Plan, 'host' | 'ports'>

/** Sends the requests to a server, or to several in turns, and measures. */
export const measure = async (
  urls: string | readonly string[],
  requests: Requests,
  watched: Watched = {},
): Promise<Measured> => {
  const ports = [urls].flat().map((url) => Number(new URL(url).port))
  return toMeasured(await drive({ ...requests, host: '127.0.0.1', ports }, watched))
}

/** Sends one request again and again. */
export const sendLoad = (load: Load): Promise<Measured> => {
  const { url, method = 'GET', headers, body, status = 200, connections, seconds, perSecond, watched } = load
  const { pathname, search } = new URL(url)
  const token = headers?.authorization?.replace(/^Bearer /, '')
  return measure(
    url,
    {
      kinds: [`${method} ${pathname}`],
      tokens: token === undefined ? [] : [token],
      requests: [
        {
          kind: 0,
          method,
          path: pathname + search,
          status,
          ...(token !== undefined && { token: 0 }),
          ...(body !== undefined && { body: JSON.stringify(body) }),
        },
      ],
      lanes: [[0]],
      phases: [{ connections, seconds }],
      warmUpSeconds: 0.2,
      ...(perSecond !== undefined && { perSecond }),
    },
    watched,
  )
}
