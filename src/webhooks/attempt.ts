import type { Clock } from '../kit/clock.ts'
import { retryAfterMs } from '../kit/retry-after.ts'
import type { Log } from '../platform/log.ts'
import { isTlsFailure } from '../platform/postgres.ts'
import { FetchRefused } from '../platform/safe-fetch.ts'
import type { PostAnswer, SafePost } from '../platform/safe-post.ts'
import type { DeliveryStore, Failure, LeasedDelivery } from './delivery-store.ts'
import type { DeliveryError } from './model.ts'
import { signatureHeaders } from './signature.ts'
import { failingFrom } from './store.ts'

/** A receiver answers within this time. */
const attemptMs = 15_000
const minPauseMs = 5_000
const maxPauseMs = 3_600_000
/** The most that a failing webhook pauses: its receiver may be back. */
const maxProbeMs = 300_000
export const retryForMs = 86_400_000

/** Sends one delivery and stores the result. Gives the lease back where the signal ends it. */
export type Attempt = (delivery: LeasedDelivery, stopped: AbortSignal) => Promise<void>

type Dependencies = {
  readonly store: Pick<DeliveryStore, 'complete' | 'fail' | 'resume' | 'release'>
  readonly post: SafePost
  readonly unseal: (webhookId: string, sealed: Uint8Array) => Uint8Array
  /** Receivers in our own network that webhooks of operators may reach. */
  readonly internalHosts: readonly string[]
  readonly clock: Clock
  readonly log: Log
  /** From 0 to 1. */
  readonly random?: () => number
}

const errorOf = (error: unknown): DeliveryError => {
  if (error instanceof FetchRefused) return error.reason === 'address' ? 'address' : 'url'
  if (error instanceof DOMException && error.name === 'TimeoutError') return 'timeout'
  return isTlsFailure(error) ? 'tls' : 'connection'
}

/** Doubles from 5 s up to an hour, and is a fifth longer or shorter, so that deliveries that failed together spread out. */
const pauseMs = (attempts: number, random: number): number =>
  Math.min(minPauseMs * 2 ** (attempts - 1), maxPauseMs) * (0.8 + 0.4 * random)

/** Runs work under a signal that aborts with `stopped`, or with a `TimeoutError` when an attempt has taken too long. */
const underLimit = async <T>(stopped: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
  const limit = new AbortController()
  const timer = setTimeout(() => limit.abort(new DOMException('No answer in time', 'TimeoutError')), attemptMs)
  const stop = () => limit.abort(stopped.reason)
  stopped.addEventListener('abort', stop)
  try {
    return await work(limit.signal)
  } finally {
    clearTimeout(timer)
    stopped.removeEventListener('abort', stop)
  }
}

export const createAttempt = ({
  store,
  post,
  unseal,
  internalHosts,
  clock,
  log,
  random = Math.random,
}: Dependencies): Attempt => {
  /** Undefined where this instance cannot unseal them, such as one that still has the previous SECRET while it is replaced. */
  const secretsOf = ({ webhook_id, secret, previous_secret }: LeasedDelivery): readonly Uint8Array[] | undefined => {
    try {
      return [secret, ...(previous_secret === null ? [] : [previous_secret])].map((each) => unseal(webhook_id, each))
    } catch (error) {
      log.error({ event: 'webhook.secret_refused', webhook_id, error }, 'the secret of a webhook does not open')
      return undefined
    }
  }

  const send = (delivery: LeasedDelivery, secrets: readonly Uint8Array[], signal: AbortSignal): Promise<PostAnswer> => {
    const { event_id, type, occurred_at, data } = delivery
    const body = JSON.stringify({ type, timestamp: occurred_at.toISOString(), data })
    return post(delivery.url, {
      body,
      headers: {
        'content-type': 'application/json',
        'user-agent': 'velro-webhooks',
        ...signatureHeaders({ id: event_id, secrets, body, nowMs: clock.now() }),
      },
      signal,
      internalHosts: delivery.team_id === null ? internalHosts : [],
    })
  }

  const failureOf = (
    { queued_at, attempts }: LeasedDelivery,
    error: DeliveryError,
    answer: PostAnswer | undefined,
  ): Failure => {
    const nowMs = clock.now()
    const isGone = answer?.status === 410
    const asked = Math.min(retryAfterMs(answer?.retryAfter, nowMs) ?? 0, maxPauseMs)
    const isOver = isGone || nowMs - queued_at.getTime() >= retryForMs
    return {
      error,
      status: answer?.status ?? null,
      retryAt: isOver ? null : new Date(nowMs + Math.max(asked, pauseMs(attempts, random()))),
      now: new Date(nowMs),
      isGone,
    }
  }

  const fail = async (delivery: LeasedDelivery, failure: Failure): Promise<void> => {
    await store.fail(delivery, failure, { minMs: minPauseMs, maxMs: maxProbeMs })
    if (failure.retryAt !== null) return
    const { webhook_id, event_id } = delivery
    log.warn(
      { event: 'webhook.given_up', webhook_id, event_id, error: failure.error, status: failure.status },
      failure.isGone
        ? 'a webhook was disabled: its receiver answered 410'
        : 'an event was not delivered to a webhook within 24 hours; it can be replayed',
    )
  }

  return async (delivery, stopped) => {
    const { webhook_id, event_id } = delivery
    const secrets = secretsOf(delivery)
    // Another instance may be able to send it when the lease has expired.
    if (secrets === undefined) return
    let answer: PostAnswer | undefined
    let error: DeliveryError = 'status'
    try {
      answer = await underLimit(stopped, (signal) => send(delivery, secrets, signal))
    } catch (caught) {
      if (stopped.aborted) return store.release(delivery)
      error = errorOf(caught)
      log.debug({ webhook_id, event_id, error: caught }, 'an event was not delivered')
    }
    const isDelivered = answer !== undefined && answer.status >= 200 && answer.status < 300
    if (answer === undefined || !isDelivered) return fail(delivery, failureOf(delivery, error, answer))
    const now = new Date(clock.now())
    await store.complete(delivery, answer.status, now)
    if (delivery.failures >= failingFrom) await store.resume(webhook_id, now)
  }
}
