import { CircuitState, ConsecutiveBreaker, circuitBreaker, handleWhenResult } from 'cockatiel'
import { delay } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import { retryAfterMs } from '../kit/retry-after.ts'
import type { Log } from '../platform/log.ts'
import { FetchRefused, type SafeFetch } from '../platform/safe-fetch.ts'
import { type Order, type Provider, ProviderFailed, type ProviderFailure } from './provider.ts'

/** `tripped`: it did not work so often that it is asked only once in a while whether it does again. */
export type RemoteProvider = Provider & { state(): 'up' | 'tripped' }

/** Why one try at a call came to nothing, and what that means for the next. */
export class ProviderError extends ProviderFailed {
  /** Another try may go better at once. */
  readonly transient: boolean
  /** It tells that the provider does not work, and not that it does not want to. */
  readonly tripsBreaker: boolean
  /** What it asks to be left alone for. */
  readonly retryAfterMs: number | undefined
  /** What was answered, when it was that. */
  readonly status: number | undefined
  constructor(
    failure: ProviderFailure,
    details: {
      retryable: boolean
      again?: boolean
      ill?: boolean
      afterMs?: number | undefined
      status?: number | undefined
      cause: unknown
    },
  ) {
    super(failure, details)
    this.transient = details.again ?? false
    this.tripsBreaker = details.ill ?? false
    this.retryAfterMs = details.afterMs
    this.status = details.status
  }
}

/** The one deadline of an attempt, handed down to all that waits for its sake. */
export type Budget = { readonly signal: AbortSignal; remainingMs(): number }

export const createBudget = (clock: Clock, ms: number, signal: AbortSignal): Budget => {
  const endsAtMs = clock.monotonic() + ms
  return {
    signal: AbortSignal.any([signal, AbortSignal.timeout(ms)]),
    remainingMs: () => endsAtMs - clock.monotonic(),
  }
}

/** What went wrong in an attempt, whatever it was, as a provider has to say it. */
export const toFailure = (error: unknown, { signal }: Budget): ProviderFailed => {
  if (error instanceof ProviderFailed) return error
  if (signal.aborted) return new ProviderFailed('timeout', { retryable: true, cause: error })
  return new ProviderFailed('failed', { retryable: true, cause: error })
}

/** `undefined` for what is not an object. */
export const field = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name]
    : undefined

/** An answer that is complete and not what was agreed on. */
export const invalidResponse = (what: string, cause?: unknown): ProviderError =>
  new ProviderError('invalid_output', { retryable: true, cause: new Error(what, { cause }) })

export type RemoteCall = {
  readonly method: 'GET' | 'POST' | 'PUT'
  /** Below the base URL, beginning with a slash; nothing in it comes from an answer unchecked. */
  readonly path: string
  readonly body?: unknown
  /** Of the answer. Default 1 MiB. */
  readonly maxBytes?: number
  /** Default 3. */
  readonly tries?: number
  /** The answer is handed on from a model, so that a 5xx does not say that the API is ill. */
  readonly relaysModelErrors?: boolean
  /** How much longer than the budget's signal allows the answer is waited for, once it was sent. */
  readonly abortGraceMs?: number
}

export type Remote = {
  /**
   * What the provider answers, parsed; or throws `Trouble`, at once while the breaker is open, else after as many tries
   * as it is worth and the budget has time for.
   */
  call(call: RemoteCall, budget: Budget): Promise<unknown>
  /** A file that an answer named, as bytes of our own. */
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
  /** Of one try at a call. */
  readonly callMs: number
  /** Of one try at fetching an output. */
  readonly fetchMs?: number
  readonly maxOutputBytes?: number
  /** Consecutive calls that show it ill, and how long it is then left alone. */
  readonly failuresToTrip?: number
  readonly probeAfterMs?: number
  /** The longest pause before the second try; it doubles from there to the most. */
  readonly firstPauseMs?: number
  readonly maxPauseMs?: number
  readonly random?: () => number
  readonly wait?: typeof delay
}

const mebibyte = 1_048_576
const transientStatuses = new Set([429, 500, 502, 503, 504])
const outputTypes: Readonly<Record<Order['kind'], readonly string[]>> = {
  image: ['image/png', 'image/jpeg', 'image/webp'],
  video: ['video/mp4'],
}
const isJson = (type: string | null) => /^application\/(?:[\w.+-]+\+)?json(?:\s*;|$)/i.test(type ?? '')

class ResponseTooLarge extends Error {
  override readonly name = 'TooLong'
}

/** A signal that aborts so much later, for the same reason. Let go of it, or it holds on to the other. */
const delayedAbort = (ms: number, signal: AbortSignal): { signal: AbortSignal; letGo(): void } => {
  if (ms === 0) return { signal, letGo: () => {} }
  const controller = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  const begin = () => {
    timer = setTimeout(() => controller.abort(signal.reason), ms)
  }
  const letGo = () => {
    signal.removeEventListener('abort', begin)
    clearTimeout(timer)
  }
  signal.addEventListener('abort', begin, { once: true })
  return { signal: controller.signal, letGo }
}

const readText = async (response: Response, maxBytes: number): Promise<string> => {
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength
    if (bytes > maxBytes) throw new ResponseTooLarge(`The answer has more than ${maxBytes} bytes`)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/**
 * The HTTP API of a provider, for as long as it works.
 *
 * Promise: a call is tried up to three times, on what may pass: no connection, 429, 500, 502, 503, 504, an answer that
 * was cut off; a call that hangs only where asking again cannot order twice. Pauses are random up to a bound that doubles
 * (full jitter) and not shorter than the provider asks for; one that the budget has no time for is not begun. Redirects
 * are not followed: the credentials are for the base URL. The credentials are in no error.
 * How it degrades: while the breaker is open every call is refused at once, as `unavailable`; one is let through every
 * `probeAfterMs`. What fetching outputs comes to says nothing about the API and does not count.
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
  failuresToTrip = 5,
  probeAfterMs = 30_000,
  firstPauseMs = 500,
  maxPauseMs = 8_000,
  random = Math.random,
  wait = delay,
}: RemoteOptions): Remote => {
  const breaker = circuitBreaker(
    handleWhenResult((answer) => answer instanceof ProviderError && answer.tripsBreaker),
    {
      breaker: new ConsecutiveBreaker(failuresToTrip),
      // When to probe is said here, by the monotonic clock; cockatiel would ask the wall clock, which steps.
      halfOpenAfter: Number.NEGATIVE_INFINITY,
    },
  )
  let probeAtMs = 0
  let tripped = false
  breaker.onBreak(() => {
    probeAtMs = clock.monotonic() + probeAfterMs
    if (!tripped) log.warn({ event: 'provider.tripped', provider: name }, 'a provider does not work and is left alone')
    tripped = true
  })
  breaker.onReset(() => {
    tripped = false
    log.info({ event: 'provider.back', provider: name }, 'a provider works again')
  })
  const breakerAllows = () =>
    breaker.state === CircuitState.Closed || (breaker.state === CircuitState.Open && clock.monotonic() >= probeAtMs)

  const errorFromResponse = (response: Response, what: string, speaksForAnother: boolean): ProviderError => {
    const { status, headers } = response
    const cause = new Error(`${what} was answered ${status}`)
    if (status >= 300 && status < 400) return new ProviderError('failed', { retryable: false, status, cause })
    if (status >= 400 && status < 500 && status !== 429) {
      return new ProviderError('refused', { retryable: false, status, cause })
    }
    return new ProviderError('unavailable', {
      retryable: true,
      again: transientStatuses.has(status),
      ill: status >= 500 && !speaksForAnother,
      afterMs: retryAfterMs(headers.get('retry-after'), clock.now()),
      status,
      cause,
    })
  }

  const parse = (response: Response, text: string, what: string): unknown => {
    if (!isJson(response.headers.get('content-type'))) return invalidResponse(`${what} was not answered in JSON`)
    try {
      return JSON.parse(text)
    } catch {
      // What is wrong with it is not told: the message would hold a part of it.
      return invalidResponse(`${what} was answered with what is not JSON`)
    }
  }

  /** The answer, or the trouble, as a value: only what the budget's signal says is thrown. */
  const callOnce = async (call: RemoteCall, budget: Budget): Promise<unknown> => {
    const { method, path, body, maxBytes = mebibyte, relaysModelErrors = false, abortGraceMs = 0 } = call
    budget.signal.throwIfAborted()
    const { signal, letGo } = delayedAbort(abortGraceMs, budget.signal)
    const what = `${method} ${path} of ${name}`
    const late = AbortSignal.timeout(callMs)
    try {
      const response = await fetch(`${baseUrl}${path}`, {
        method,
        headers: {
          authorization,
          accept: 'application/json',
          ...(body !== undefined && { 'content-type': 'application/json' }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        redirect: 'manual',
        signal: AbortSignal.any([signal, late]),
      })
      if (!response.ok) {
        response.body?.cancel().catch(() => {})
        return errorFromResponse(response, what, relaysModelErrors)
      }
      return parse(response, await readText(response, maxBytes), what)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      if (error instanceof ResponseTooLarge) return invalidResponse(`${what} was answered at too great length`, error)
      if (late.aborted) {
        const cause = new Error(`${what} was not answered within ${callMs} ms`)
        return new ProviderError('timeout', { retryable: true, again: method !== 'POST', ill: true, cause })
      }
      const cause = new Error(`${what} found no connection, or lost it`, { cause: error })
      return new ProviderError('unavailable', { retryable: true, again: true, ill: true, cause })
    } finally {
      letGo()
    }
  }

  const callThroughBreaker = async (call: RemoteCall, budget: Budget): Promise<unknown> => {
    if (!breakerAllows()) {
      const cause = new Error(`${name} did not work ${failuresToTrip} times in a row and is left alone`)
      throw new ProviderError('unavailable', { retryable: true, cause })
    }
    const answer = await breaker.execute(() => callOnce(call, budget))
    if (answer instanceof ProviderError) throw answer
    return answer
  }

  const withRetries = async <T>(tryIt: () => Promise<T>, { signal, remainingMs }: Budget, tries = 3): Promise<T> => {
    for (let tried = 1; ; tried += 1) {
      try {
        return await tryIt()
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
      return new ProviderError('unavailable', { retryable: true, again: true, cause })
    }
    const { status, retryAfter } = error
    if (status === undefined || (status !== 429 && status < 500)) {
      return new ProviderError('invalid_output', { retryable: false, status, cause: error })
    }
    const afterMs = retryAfterMs(retryAfter, clock.now())
    return new ProviderError('unavailable', {
      retryable: true,
      again: transientStatuses.has(status),
      afterMs,
      status,
      cause: error,
    })
  }

  const fetchOnce = async (url: string, kind: Order['kind'], { signal }: Budget): Promise<Uint8Array> => {
    const late = AbortSignal.timeout(fetchMs)
    let bytes: Uint8Array
    try {
      bytes = await safeFetch(url, {
        hosts: outputHosts,
        types: outputTypes[kind],
        maxBytes: maxOutputBytes,
        signal: AbortSignal.any([signal, late]),
      })
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw late.aborted
        ? new ProviderError('timeout', { retryable: true, again: true, cause: error })
        : errorFromFetch(error)
    }
    if (bytes.byteLength === 0) throw invalidResponse(`An output of ${name} is empty`)
    return bytes
  }

  return {
    call: (call, budget) => withRetries(() => callThroughBreaker(call, budget), budget, call.tries),
    fetchOutput: (url, kind, budget) => withRetries(() => fetchOnce(url, kind, budget), budget),
    state: () => (breaker.state === CircuitState.Closed ? 'up' : 'tripped'),
  }
}
