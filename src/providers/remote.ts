import { delay } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import { retryAfterMs } from '../kit/retry-after.ts'
import { type Breakers, createBreakers } from '../platform/breaker.ts'
import type { Log } from '../platform/log.ts'
import { FetchRefused, type SafeFetch } from '../platform/safe-fetch.ts'
import { NotConnected, singleUseFetch } from '../platform/single-use-fetch.ts'
import { type Order, type Provider, ProviderFailed } from './provider.ts'
import { errorFromResponse, invalidResponse, ProviderError, transientStatuses } from './provider-error.ts'

/** `tripped`: the circuit breaker is open; only occasional probes reach the provider. */
export type RemoteProvider = Provider & { state(): 'up' | 'tripped' }

/** The deadline of one attempt, shared by every wait in it. */
export type Budget = { readonly signal: AbortSignal; remainingMs(): number }

export const createBudget = (clock: Clock, ms: number, signal: AbortSignal): Budget => {
  const endsAtMs = clock.monotonic() + ms
  return {
    signal: AbortSignal.any([signal, AbortSignal.timeout(ms)]),
    remainingMs: () => endsAtMs - clock.monotonic(),
  }
}

/** Converts any error of an attempt to a `ProviderFailed`; an exhausted budget becomes a timeout. */
export const toFailure = (error: unknown, { signal }: Budget): ProviderFailed => {
  if (error instanceof ProviderFailed) return error
  if (signal.aborted) return new ProviderFailed('timeout', { retryable: true, cause: error })
  return new ProviderFailed('failed', { retryable: true, cause: error })
}

/** An own property of an object; undefined when the value is not an object. */
export const field = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name]
    : undefined

export type RemoteCall = {
  readonly method: 'GET' | 'PUT' | 'POST'
  /** The generation for which a POST places a paid order. */
  readonly generationId?: string
  /** Appended to the base URL; starts with a slash. Parts taken from a response must have been validated. */
  readonly path: string
  readonly body?: unknown
  /** Limit for the size of the response. Default: 1 MiB. */
  readonly maxBytes?: number
  /** Default: 3. */
  readonly tries?: number
  /** The API relays the status of a model, so a 5xx does not count towards the breaker. */
  readonly relaysModelErrors?: boolean
  /** After the budget's signal aborts, a request in flight may wait this much longer for its response. */
  readonly abortGraceMs?: number
}

export type Remote = {
  /**
   * Resolves to the parsed JSON response. Throws `ProviderError`: at once while the breaker is open, else when the error is
   * not transient, the tries are used up, or the budget has no time for another.
   */
  call(call: RemoteCall, budget: Budget): Promise<unknown>
  /** Fetches an output file named in a response. */
  fetchOutput(url: string, kind: Order['kind'], budget: Budget): Promise<Uint8Array>
  state(): 'up' | 'tripped'
}

export type RemoteOptions = {
  readonly name: string
  readonly baseUrl: string
  readonly authorization: string
  readonly outputHosts: readonly string[]
  readonly safeFetch: SafeFetch
  readonly clock: Clock
  readonly log: Log
  /** Limit for one try of a call. */
  readonly callMs: number
  /** Limit for one try at fetching an output. */
  readonly fetchMs?: number
  readonly maxOutputBytes?: number
  /** Has the policy of the breaker. By default it is the default one. */
  readonly breakers?: Pick<Breakers, 'create'> | undefined
  /** Upper bound of the pause before the second try; the bound doubles with each try up to `maxPauseMs`. */
  readonly firstPauseMs?: number
  readonly maxPauseMs?: number
  readonly random?: () => number
  readonly wait?: typeof delay
}

const mebibyte = 1_048_576
const outputTypes: Readonly<Record<Order['kind'], readonly string[]>> = {
  image: ['image/png', 'image/jpeg', 'image/webp'],
  video: ['video/mp4'],
}
const isJson = (type: string | null) => /^application\/(?:[\w.+-]+\+)?json(?:\s*;|$)/i.test(type ?? '')

class ResponseTooLarge extends Error {
  override readonly name = 'ResponseTooLarge'
}

/** Whether a failed order was certainly not placed: it was refused, put off, or never sent. */
const isNotPlaced = ({ status, cause }: ProviderError): boolean =>
  (status !== undefined && (status < 500 || status === 503)) ||
  (cause instanceof Error && cause.cause instanceof NotConnected)

/** Settles as the exchange of an order. One that may have been placed is logged, and must not be placed again at once. */
const placeOnce = async (exchange: Promise<unknown>, { log, ...fields }: { log: Log; [field: string]: unknown }) => {
  const noteUnclear = (error: unknown) =>
    log.warn(
      { event: 'provider.order_unclear', ...fields, error },
      'an order may have been placed although its answer was lost; another attempt may be paid for as well',
    )
  try {
    const answer = await exchange
    if (!(answer instanceof ProviderError) || isNotPlaced(answer)) return answer
    noteUnclear(answer)
    const { failure, retryable, tripsBreaker, status, cause } = answer
    return new ProviderError(failure, { retryable, tripsBreaker, status, cause })
  } catch (aborted) {
    noteUnclear(aborted)
    throw aborted
  }
}

/** A signal that aborts `ms` later than another, with the same reason. Call `release`, else the other keeps a listener. */
const delayedAbort = (ms: number, signal: AbortSignal): { signal: AbortSignal; release(): void } => {
  if (ms === 0) return { signal, release: () => {} }
  const controller = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  const startTimer = () => {
    timer = setTimeout(() => controller.abort(signal.reason), ms)
  }
  const release = () => {
    signal.removeEventListener('abort', startTimer)
    clearTimeout(timer)
  }
  signal.addEventListener('abort', startTimer, { once: true })
  return { signal: controller.signal, release }
}

const readText = async (response: Response, maxBytes: number): Promise<string> => {
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength
    if (bytes > maxBytes) throw new ResponseTooLarge(`The response is larger than ${maxBytes} bytes`)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

const parse = (response: Response, text: string, request: string): unknown => {
  if (!isJson(response.headers.get('content-type')))
    return invalidResponse(`${request} returned a content type other than JSON`)
  try {
    return JSON.parse(text)
  } catch {
    // The parser's message is dropped, because it quotes a part of the response.
    return invalidResponse(`${request} returned invalid JSON`)
  }
}

/**
 * A client of a provider's HTTP API, with retries and a circuit breaker.
 *
 * Promise: a call is tried up to three times, on transient failures only: no connection, a connection that closes early, 429,
 * 500, 502, 503, 504 and a timeout. A POST places a paid order: it is sent once for each try, and tried again only where the
 * order was certainly not placed (no connection, 429, 503). Where it may have been placed, `provider.order_unclear` is
 * logged. Pauses use exponential backoff with full jitter and are at least the Retry-After; a pause beyond the budget is not
 * started.
 * Redirects are not followed, since the credentials are meant for the base URL only. Errors never contain the credentials.
 * How it degrades: while the breaker is open, calls fail at once as `unavailable`, except one probe at an interval.
 * Failures to fetch outputs do not count towards the breaker: other hosts serve them.
 */
export const createRemote = ({
  name,
  baseUrl,
  authorization,
  outputHosts,
  safeFetch,
  clock,
  log,
  callMs,
  fetchMs = 60_000,
  maxOutputBytes = 64 * mebibyte,
  breakers = createBreakers({ clock, log }),
  firstPauseMs = 500,
  maxPauseMs = 8_000,
  random = Math.random,
  wait = delay,
}: RemoteOptions): Remote => {
  const breaker = breakers.create({
    name: `provider.${name}`,
    dependency: 'provider',
    // The reason of a call that was aborted says nothing of the provider.
    isFailure: () => false,
    isFailedResult: (answer) => answer instanceof ProviderError && answer.tripsBreaker,
  })

  /** Returns the response or a `ProviderError` as a value; throws only the signal's reason. */
  const exchange = async (call: RemoteCall, budget: Budget): Promise<unknown> => {
    const { method, path, body, maxBytes = mebibyte, relaysModelErrors = false, abortGraceMs = 0 } = call
    const send = method === 'POST' ? singleUseFetch : fetch
    const { signal, release } = delayedAbort(abortGraceMs, budget.signal)
    const request = `${method} ${path} of ${name}`
    const timeout = AbortSignal.timeout(callMs)
    try {
      const response = await send(`${baseUrl}${path}`, {
        method,
        headers: {
          authorization,
          accept: 'application/json',
          ...(body !== undefined && { 'content-type': 'application/json' }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        redirect: 'manual',
        signal: AbortSignal.any([signal, timeout]),
      })
      if (!response.ok) {
        response.body?.cancel().catch(() => {})
        return errorFromResponse(response, request, relaysModelErrors, clock.now())
      }
      return parse(response, await readText(response, maxBytes), request)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      if (error instanceof ResponseTooLarge) return invalidResponse(`${request} returned too large a response`, error)
      if (timeout.aborted) {
        const cause = new Error(`${request} timed out after ${callMs} ms`)
        return new ProviderError('timeout', { retryable: true, transient: true, tripsBreaker: true, cause })
      }
      const cause = new Error(`${request} could not connect or lost its connection`, { cause: error })
      return new ProviderError('unavailable', { retryable: true, transient: true, tripsBreaker: true, cause })
    } finally {
      release()
    }
  }

  const callOnce = async (call: RemoteCall, budget: Budget): Promise<unknown> => {
    budget.signal.throwIfAborted()
    if (call.method !== 'POST') return exchange(call, budget)
    return placeOnce(exchange(call, budget), { log, provider: name, generation_id: call.generationId })
  }

  const callThroughBreaker = async (call: RemoteCall, budget: Budget): Promise<unknown> => {
    if (!breaker.allows()) {
      const cause = new Error(`The circuit breaker of ${name} is open`)
      throw new ProviderError('unavailable', { retryable: true, cause })
    }
    const answer = await breaker.execute(() => callOnce(call, budget))
    if (answer instanceof ProviderError) throw answer
    return answer
  }

  const withRetries = async <T>(
    operation: () => Promise<T>,
    { signal, remainingMs }: Budget,
    tries = 3,
  ): Promise<T> => {
    for (let tried = 1; ; tried += 1) {
      try {
        return await operation()
      } catch (error) {
        if (!(error instanceof ProviderError) || !error.transient || tried >= tries) throw error
        const pauseMs = random() * Math.min(maxPauseMs, firstPauseMs * 2 ** (tried - 1))
        const waitMs = Math.max(pauseMs, error.retryAfterMs ?? 0)
        if (waitMs >= remainingMs()) throw error
        await wait(waitMs, signal)
      }
    }
  }

  const errorFromFetch = (error: unknown): ProviderError => {
    if (!(error instanceof FetchRefused)) {
      const cause = new Error(`An output of ${name} could not be fetched`, { cause: error })
      return new ProviderError('unavailable', { retryable: true, transient: true, cause })
    }
    const { status, retryAfter } = error
    if (status === undefined || (status !== 429 && status < 500)) {
      return new ProviderError('invalid_output', { retryable: false, status, cause: error })
    }
    return new ProviderError('unavailable', {
      retryable: true,
      transient: transientStatuses.has(status),
      retryAfterMs: retryAfterMs(retryAfter, clock.now()),
      status,
      cause: error,
    })
  }

  const fetchOnce = async (url: string, kind: Order['kind'], { signal }: Budget): Promise<Uint8Array> => {
    const timeout = AbortSignal.timeout(fetchMs)
    let bytes: Uint8Array
    try {
      bytes = await safeFetch(url, {
        hosts: outputHosts,
        types: outputTypes[kind],
        maxBytes: maxOutputBytes,
        signal: AbortSignal.any([signal, timeout]),
      })
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw timeout.aborted
        ? new ProviderError('timeout', { retryable: true, transient: true, cause: error })
        : errorFromFetch(error)
    }
    if (bytes.byteLength === 0) throw invalidResponse(`An output of ${name} is empty`)
    return bytes
  }

  return {
    call: (call, budget) => withRetries(() => callThroughBreaker(call, budget), budget, call.tries),
    fetchOutput: (url, kind, budget) => withRetries(() => fetchOnce(url, kind, budget), budget),
    state: () => (breaker.state === 'closed' ? 'up' : 'tripped'),
  }
}
