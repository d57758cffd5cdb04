import { retryAfterMs } from '../kit/retry-after.ts'
import { ProviderFailed, type ProviderFailure } from './provider.ts'

/** Why one try of a call failed, and what that means for retries and for the breaker. */
export class ProviderError extends ProviderFailed {
  /** The call may be retried within the same attempt. */
  readonly transient: boolean
  /** Counts towards the breaker: the provider is failing, as opposed to refusing. */
  readonly tripsBreaker: boolean
  /** The wait that the provider asks for in Retry-After. */
  readonly retryAfterMs: number | undefined
  /** Status of the response, if there was one. */
  readonly status: number | undefined
  constructor(
    failure: ProviderFailure,
    details: {
      retryable: boolean
      transient?: boolean
      tripsBreaker?: boolean
      retryAfterMs?: number | undefined
      status?: number | undefined
      cause: unknown
    },
  ) {
    super(failure, details)
    this.transient = details.transient ?? false
    this.tripsBreaker = details.tripsBreaker ?? false
    this.retryAfterMs = details.retryAfterMs
    this.status = details.status
  }
}

/** The error for a complete response that violates the API's contract. */
export const invalidResponse = (message: string, cause?: unknown): ProviderError =>
  new ProviderError('invalid_output', { retryable: true, cause: new Error(message, { cause }) })

/** Statuses of a server that may answer the same call soon. */
export const transientStatuses = new Set([429, 500, 502, 503, 504])

/** The error for a response whose status says that the call failed. `nowMs` is the wall clock, for a Retry-After with a date. */
export const errorFromResponse = (
  response: Response,
  request: string,
  relaysModelErrors: boolean,
  nowMs: number,
): ProviderError => {
  const { status, headers } = response
  const cause = new Error(`${request} returned status ${status}`)
  if (status >= 300 && status < 400) return new ProviderError('failed', { retryable: false, status, cause })
  if (status >= 400 && status < 500 && status !== 429) {
    return new ProviderError('refused', { retryable: false, status, cause })
  }
  return new ProviderError('unavailable', {
    retryable: true,
    transient: transientStatuses.has(status),
    tripsBreaker: status >= 500 && !relaysModelErrors,
    retryAfterMs: retryAfterMs(headers.get('retry-after'), nowMs),
    status,
    cause,
  })
}
