/** One request that may be sent any number of times. */
export type PlannedRequest = {
  /** Index of its kind, by which results are reported. */
  readonly kind: number
  readonly method: 'GET' | 'POST' | 'PATCH'
  readonly path: string
  /** Index of the token that it bears. */
  readonly token?: number
  /** JSON. */
  readonly body?: string
  /** Any other status is an error. Default 200. */
  readonly status?: number
  /** The answer must be no, if it is asked after the answer to a change that shut this slot. */
  readonly judgedBy?: number
  /** Shuts a slot that is open and opens one that is shut, with `body` and `openingBody` in turns. */
  readonly toggles?: { readonly slot: number; readonly openingBody: string }
  /** `{n}` in the body becomes a number that was not used before. */
  readonly numbered?: boolean
  /** `{r}` in the body becomes the refresh token of the last answer to this request, at first this one. */
  readonly refreshToken?: string
}

export type Phase = { readonly connections: number; readonly seconds: number }

/** What the load generator sends, as it reads it from a file. */
export type Plan = {
  readonly host: string
  /** Of the servers; the connections use them in turns. */
  readonly ports: readonly number[]
  readonly kinds: readonly string[]
  readonly tokens: readonly string[]
  readonly requests: readonly PlannedRequest[]
  /** Indices of requests. A connection walks through the lane with its number; with one lane, all walk through it together. */
  readonly lanes: readonly (readonly number[])[]
  /** One after the other. Connections beyond those of a phase are closed. */
  readonly phases: readonly Phase[]
  /** At the connections of the first phase, before the measurement. */
  readonly warmUpSeconds: number
  /**
   * Starts per second over all connections; latencies count from when a request was due. Default: each connection sends when it
   * is answered.
   */
  readonly perSecond?: number
  /** How many generators share the lanes, and which one this is. */
  readonly share?: { readonly of: number; readonly index: number }
}

export type KindResult = {
  readonly requests: number
  readonly errors: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

/** A quarter of a second. */
export type Slice = { readonly answered: number; readonly errors: number; readonly slowestMs: number }

export type LoadResult = {
  readonly seconds: number
  /** Answered within the measured time, right or wrong. */
  readonly answered: number
  /** All requests, with those answered after it. */
  readonly requests: number
  readonly errors: Readonly<Record<string, number>>
  readonly all: KindResult
  readonly kinds: Readonly<Record<string, KindResult>>
  /** Of the answers to checks, those that said yes. */
  readonly allowed: number
  readonly denied: number
  /** Answers that had to be no, and those of them that said yes. */
  readonly judged: number
  readonly staleAllows: number
  readonly slices: readonly Slice[]
  /** Processor time of the generator itself, as a share of one core. */
  readonly generatorCpu: number
}

export const sliceMs = 250
