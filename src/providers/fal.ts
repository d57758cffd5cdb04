import { Buffer } from 'node:buffer'
import { delay } from '../kit/async.ts'
import { type Attempt, type Order, type Output, ProviderFailed, type Reference } from './provider.ts'
import { invalidResponse, ProviderError } from './provider-error.ts'
import {
  type Budget,
  createBudget,
  createRemote,
  field,
  type RemoteCall,
  type RemoteOptions,
  type RemoteProvider,
  toFailure,
} from './remote.ts'

export type FalOptions = Omit<RemoteOptions, 'name' | 'baseUrl' | 'authorization' | 'callMs'> & {
  readonly key: string
  /** Without a trailing slash. */
  readonly queueUrl: string
  /** Limit for one attempt. */
  readonly deadlineMs?: Readonly<Record<Order['kind'], number>>
  /** Limit for one try of a call. */
  readonly callMs?: number
  /** Limit for cancelling an order, and for waiting for the request id of a submission whose attempt has ended. */
  readonly cancelMs?: number
  /** The pause between two polls of a request starts at the first value and grows to the second. */
  readonly firstPollMs?: number
  readonly maxPollMs?: number
}

const modelPattern = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?:\/[\w-][\w.-]*)*$/
const requestIdPattern = /^[\w-]{1,128}$/

const requestIdOf = (remote: unknown): string | undefined => {
  const id = field(remote, 'request_id')
  return typeof id === 'string' && requestIdPattern.test(id) ? id : undefined
}

/** fal accepts a data URI wherever it accepts a URL. */
const dataUriOf = ({ bytes, contentType }: Reference) =>
  `data:${contentType};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`

/** The price in the registry is that of a 5-second clip. */
const inputOf = ({ kind, prompt, negativePrompt, parameters, outputs, reference }: Order) => ({
  ...parameters,
  ...(kind === 'image' ? { num_images: outputs } : { duration: '5' }),
  prompt,
  ...(negativePrompt !== '' && { negative_prompt: negativePrompt }),
  ...(reference && { image_url: dataUriOf(reference) }),
})

/** The output URLs in the result of a model. An image that its safety checker blackened counts as refused. */
const outputUrls = (result: unknown, { kind, outputs }: Order): string[] => {
  const flags = field(result, 'has_nsfw_concepts')
  if (Array.isArray(flags) && flags.includes(true)) {
    throw new ProviderFailed('refused', {
      retryable: false,
      cause: new Error('The safety checker of fal blacked out an image'),
    })
  }
  const images = field(result, 'images')
  const files = kind === 'video' ? [field(result, 'video')] : Array.isArray(images) ? images : []
  const urls = files.map((file) => field(file, 'url')).filter((url) => typeof url === 'string')
  if (urls.length < outputs) throw invalidResponse(`fal returned ${urls.length} of ${outputs} outputs`)
  return urls.slice(0, outputs)
}

/** An estimate, since fal reports no progress of a running request: 0.5 while it runs, less the further back it is queued. */
const fractionOf = (status: unknown): number => {
  if (field(status, 'status') === 'IN_PROGRESS') return 0.5
  const position = field(status, 'queue_position')
  return typeof position === 'number' && position >= 0 ? 0.2 / (1 + position) : 0
}
const generatedFraction = 0.8

/** Statuses with which fal answers a cancellation when the request is complete or unknown. */
const nothingToCancel: ReadonlySet<number | undefined> = new Set([400, 404, 410])

const isUnknown = (error: unknown) => error instanceof ProviderError && (error.status === 404 || error.status === 410)

/** The model failed, which fal does not charge for: resuming the order would fail in the same way, another may succeed. */
const isFailedOrder = (error: unknown): boolean =>
  error instanceof ProviderFailed && error.retryable && error.failure === 'failed'

/**
 * The models of fal.ai, through its queue API (https://fal.ai/docs/documentation/model-apis/inference/queue). An order is
 * submitted, recorded, polled until it is complete, and its output files are fetched.
 *
 * Promise: a remote order that an earlier attempt recorded is resumed; it is placed again only when fal no longer knows it,
 * or when the model failed. An order that fal completed is never placed again, even if its outputs are refused.
 * URLs in fal's responses are used only to fetch outputs: the URLs of a request are built here from its id. An order that
 * cannot be recorded, or exceeds the limit of an attempt, is cancelled if fal can be reached. An attempt that is aborted
 * while it submits waits up to `cancelMs` for the request id, so that the order can be recorded.
 * How it degrades: when the response to a submission is lost, the next attempt places the order again, and both are paid for.
 */
export const createFal = (options: FalOptions): RemoteProvider => {
  const { clock, log, key, queueUrl, callMs = 15_000, cancelMs = 2_000, firstPollMs = 500, maxPollMs = 5_000 } = options
  const { wait = delay, deadlineMs = { image: 300_000, video: 1_200_000 } } = options
  const remote = createRemote({ ...options, name: 'fal', baseUrl: queueUrl, authorization: `Key ${key}`, callMs })

  /** fal addresses a request below its app, which is the first two segments of the model name. */
  const pathOf = (providerModel: string, requestId: string): string => {
    const app = modelPattern.exec(providerModel)?.[1]
    return `/${app}/requests/${requestId}`
  }

  const submit = async (order: Order, budget: Budget): Promise<string> => {
    const path = `/${order.providerModel}`
    const { generationId } = order
    const call: RemoteCall = { method: 'POST', path, generationId, body: inputOf(order), abortGraceMs: cancelMs }
    const requestId = requestIdOf(await remote.call(call, budget))
    if (requestId === undefined) throw invalidResponse('fal accepted an order without returning a request id')
    return requestId
  }

  const cancel = async (providerModel: string, requestId: string) => {
    const budget = createBudget(clock, cancelMs, new AbortController().signal)
    const path = `${pathOf(providerModel, requestId)}/cancel`
    await remote.call({ method: 'PUT', path, tries: 1 }, budget).catch((error: unknown) => {
      // Complete or unknown: there is nothing left to cancel.
      if (error instanceof ProviderError && nothingToCancel.has(error.status)) return
      throw toFailure(error, budget)
    })
  }

  /** Best effort: if fal cannot be reached, the order is completed and paid for, and its outputs are never fetched. */
  const tryToCancel = async ({ providerModel }: Order, requestId: string) => {
    await cancel(providerModel, requestId).catch((error: unknown) => {
      log.debug({ event: 'provider.not_cancelled', provider: 'fal', error }, 'a remote order could not be cancelled')
    })
  }

  /** Polls until the request is complete; resolves to whether fal reports that it failed. */
  const waitUntilComplete = async (path: string, budget: Budget, report: (fraction: number) => void) => {
    for (let pauseMs = firstPollMs; ; pauseMs = Math.min(maxPollMs, pauseMs * 1.5)) {
      const status = await remote.call({ method: 'GET', path: `${path}/status` }, budget)
      const state = field(status, 'status')
      if (state === 'COMPLETED') return { failed: typeof field(status, 'error') === 'string' }
      if (state !== 'IN_QUEUE' && state !== 'IN_PROGRESS')
        throw invalidResponse('fal returned an unknown request status')
      report(fractionOf(status))
      await wait(pauseMs, budget.signal)
    }
  }

  /** The result of the model. fal relays its status, so a 5xx that persists is a failure of the model and not of fal. */
  const readResult = async (path: string, failed: boolean, budget: Budget): Promise<unknown> => {
    try {
      return await remote.call({ method: 'GET', path, relaysModelErrors: true, tries: failed ? 1 : 3 }, budget)
    } catch (error) {
      if (!(error instanceof ProviderError) || (error.status ?? 0) < 500) throw error
      throw new ProviderFailed('failed', { retryable: true, cause: error })
    }
  }

  const fetchOutputs = async (urls: string[], order: Order, budget: Budget, report: (fraction: number) => void) => {
    const outputs: Output[] = []
    for (const url of urls) {
      outputs.push({ bytes: await remote.fetchOutput(url, order.kind, budget) })
      report(generatedFraction + (1 - generatedFraction) * (outputs.length / urls.length))
    }
    return outputs
  }

  const resume = async (order: Order, requestId: string, attempt: Attempt, budget: Budget): Promise<Output[]> => {
    const path = pathOf(order.providerModel, requestId)
    let reported = 0
    const report = (fraction: number) => {
      if (fraction <= reported) return
      reported = fraction
      attempt.onProgress(fraction)
    }
    let complete = false
    try {
      const { failed } = await waitUntilComplete(path, budget, report)
      complete = true
      report(generatedFraction)
      const result = await readResult(path, failed, budget)
      return await fetchOutputs(outputUrls(result, order), order, budget, report)
    } catch (error) {
      const timedOut = !complete && budget.signal.aborted && !attempt.signal.aborted
      if (timedOut) await tryToCancel(order, requestId)
      // A cancelled or failed order must not be resumed. If this cannot be stored, the error that led here is thrown all the same.
      if (isFailedOrder(error) || timedOut) await attempt.recordRemoteOrder(null).catch(() => {})
      throw error
    }
  }

  const placeOrder = async (order: Order, attempt: Attempt, budget: Budget): Promise<Output[]> => {
    const requestId = await submit(order, budget)
    try {
      await attempt.recordRemoteOrder({ request_id: requestId })
    } catch (error) {
      await tryToCancel(order, requestId)
      throw error
    }
    return resume(order, requestId, attempt, budget)
  }

  return {
    name: 'fal',
    state: remote.state,
    generate: async (order, attempt) => {
      const budget = createBudget(clock, deadlineMs[order.kind], attempt.signal)
      try {
        budget.signal.throwIfAborted()
        if (!modelPattern.test(order.providerModel)) throw new Error('The provider model is not a valid fal model name')
        const requestId = requestIdOf(attempt.remoteOrder)
        if (requestId === undefined) return await placeOrder(order, attempt, budget)
        return await resume(order, requestId, attempt, budget).catch((error: unknown) => {
          if (isUnknown(error)) return placeOrder(order, attempt, budget)
          throw error
        })
      } catch (error) {
        throw toFailure(error, budget)
      }
    },
    cancel: async (providerModel, remoteOrder) => {
      const requestId = requestIdOf(remoteOrder)
      if (requestId !== undefined) await cancel(providerModel, requestId)
    },
  }
}
