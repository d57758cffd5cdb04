import { Buffer } from 'node:buffer'
import { delay } from '../kit/async.ts'
import { type Attempt, type Order, type Output, ProviderFailed, type Reference } from './provider.ts'
import {
  type Budget,
  createBudget,
  createRemote,
  field,
  invalidResponse,
  ProviderError,
  type RemoteOptions,
  type RemoteProvider,
  toFailure,
} from './remote.ts'

export type FalOptions = Omit<RemoteOptions, 'name' | 'baseUrl' | 'authorization' | 'callMs'> & {
  readonly key: string
  /** Without a slash at its end. */
  readonly queueUrl: string
  /** Of one attempt. */
  readonly deadlineMs?: Readonly<Record<Order['kind'], number>>
  /** Of one try at a call. */
  readonly callMs?: number
  /** What telling that an order is cancelled may take; when an attempt is over, what learning its order's name may. */
  readonly cancelMs?: number
  /** The pause before the second look at a request, and the one it grows to. */
  readonly firstPollMs?: number
  readonly maxPollMs?: number
}

const modelPattern = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?:\/[\w-][\w.-]*)*$/
const requestIdPattern = /^[\w-]{1,128}$/

const requestIdOf = (remote: unknown): string | undefined => {
  const id = field(remote, 'request_id')
  return typeof id === 'string' && requestIdPattern.test(id) ? id : undefined
}

/** Which fal takes wherever it takes a URL. */
const dataUriOf = ({ bytes, contentType }: Reference) =>
  `data:${contentType};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`

/** Clips of 5 seconds are what the registry has a price for. */
const inputOf = ({ kind, prompt, negativePrompt, parameters, outputs, reference }: Order) => ({
  ...parameters,
  ...(kind === 'image' ? { num_images: outputs } : { duration: '5' }),
  prompt,
  ...(negativePrompt !== '' && { negative_prompt: negativePrompt }),
  ...(reference && { image_url: dataUriOf(reference) }),
})

/** Where the files are, as the model says. A picture that its safety checker blackened was refused. */
const outputUrls = (result: unknown, { kind, outputs }: Order): string[] => {
  const flags = field(result, 'has_nsfw_concepts')
  if (Array.isArray(flags) && flags.includes(true)) {
    throw new ProviderFailed('refused', {
      retryable: false,
      cause: new Error('The safety checker of fal blackened it'),
    })
  }
  const images = field(result, 'images')
  const files = kind === 'video' ? [field(result, 'video')] : Array.isArray(images) ? images : []
  const urls = files.map((file) => field(file, 'url')).filter((url) => typeof url === 'string')
  if (urls.length < outputs) throw invalidResponse(`fal made ${urls.length} of ${outputs} outputs`)
  return urls.slice(0, outputs)
}

/** The more are before it the less; where it is in the making fal does not say. */
const fractionOf = (status: unknown): number => {
  if (field(status, 'status') === 'IN_PROGRESS') return 0.5
  const position = field(status, 'queue_position')
  return typeof position === 'number' && position >= 0 ? 0.2 / (1 + position) : 0
}
const generatedFraction = 0.8

/** What fal answers where there is nothing left to cancel. */
const nothingToCancel: ReadonlySet<number | undefined> = new Set([400, 404, 410])

const isUnknown = (error: unknown) => error instanceof ProviderError && (error.status === 404 || error.status === 410)

/** Made, and of no use: going on from there would come to the same. */
const isPermanentlyBroken = (error: unknown): boolean =>
  error instanceof ProviderFailed &&
  error.retryable &&
  (error.failure === 'failed' || error.failure === 'invalid_output')

/**
 * The models of fal.ai, over its queue (https://fal.ai/docs/documentation/model-apis/inference/queue): an order is
 * submitted, noted, looked at until it is complete, and its files are fetched.
 *
 * Promise: an order noted by an earlier attempt is gone on with, and ordered again only if fal does not know it any more.
 * URLs of its answers are used for nothing but fetching outputs: those of a request are made from its id here. An order
 * that could not be noted, or takes longer than an attempt may, is cancelled if fal can be reached; an attempt that ends while
 * it submits one waits for its name, a little, so that it can be noted.
 * How it degrades: what was submitted with an answer that did not arrive is submitted again, and paid for twice.
 */
export const createFal = (options: FalOptions): RemoteProvider => {
  const { clock, log, key, queueUrl, callMs = 15_000, cancelMs = 2_000, firstPollMs = 500, maxPollMs = 5_000 } = options
  const { wait = delay, deadlineMs = { image: 300_000, video: 1_200_000 } } = options
  const remote = createRemote({ ...options, name: 'fal', baseUrl: queueUrl, authorization: `Key ${key}`, callMs })

  /** A request is known by its app, which is the first two parts of a model's name. */
  const pathOf = (providerModel: string, requestId: string): string => {
    const app = modelPattern.exec(providerModel)?.[1]
    return `/${app}/requests/${requestId}`
  }

  const submit = async (order: Order, budget: Budget): Promise<string> => {
    const call = {
      method: 'POST',
      path: `/${order.providerModel}`,
      body: inputOf(order),
      abortGraceMs: cancelMs,
    } as const
    const requestId = requestIdOf(await remote.call(call, budget))
    if (requestId === undefined) throw invalidResponse('fal took an order without saying what it calls it')
    return requestId
  }

  const cancel = async (providerModel: string, requestId: string) => {
    const budget = createBudget(clock, cancelMs, new AbortController().signal)
    const path = `${pathOf(providerModel, requestId)}/cancel`
    await remote.call({ method: 'PUT', path, tries: 1 }, budget).catch((error: unknown) => {
      // Complete, or not known any more.
      if (error instanceof ProviderError && nothingToCancel.has(error.status)) return
      throw toFailure(error, budget)
    })
  }

  /** If fal cannot be reached it is made and paid for, and nobody fetches it. */
  const tryToCancel = async ({ providerModel }: Order, requestId: string) => {
    await cancel(providerModel, requestId).catch((error: unknown) => {
      log.debug({ event: 'provider.not_cancelled', provider: 'fal', error }, 'an order could not be cancelled')
    })
  }

  /** Resolves when it is complete, to whether it says that it failed. */
  const waitUntilComplete = async (path: string, budget: Budget, tell: (fraction: number) => void) => {
    for (let pauseMs = firstPollMs; ; pauseMs = Math.min(maxPollMs, pauseMs * 1.5)) {
      const status = await remote.call({ method: 'GET', path: `${path}/status` }, budget)
      const word = field(status, 'status')
      if (word === 'COMPLETED') return { failed: typeof field(status, 'error') === 'string' }
      if (word !== 'IN_QUEUE' && word !== 'IN_PROGRESS') throw invalidResponse('fal does not say how far an order is')
      tell(fractionOf(status))
      await wait(pauseMs, budget.signal)
    }
  }

  /** What the model answered, with its status; if trying again does not change a 5xx, it was the model that failed. */
  const readResult = async (path: string, failed: boolean, budget: Budget): Promise<unknown> => {
    try {
      return await remote.call({ method: 'GET', path, relaysModelErrors: true, tries: failed ? 1 : 3 }, budget)
    } catch (error) {
      if (!(error instanceof ProviderError) || (error.status ?? 0) < 500) throw error
      throw new ProviderFailed('failed', { retryable: true, cause: error })
    }
  }

  const fetchOutputs = async (urls: string[], order: Order, budget: Budget, tell: (fraction: number) => void) => {
    const outputs: Output[] = []
    for (const url of urls) {
      outputs.push({ bytes: await remote.fetchOutput(url, order.kind, budget) })
      tell(generatedFraction + (1 - generatedFraction) * (outputs.length / urls.length))
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
      const over = !complete && budget.signal.aborted && !attempt.signal.aborted
      if (over) await tryToCancel(order, requestId)
      // What is cancelled, or of no use, is forgotten; if that cannot be written down, the failure is what counts.
      if (isPermanentlyBroken(error) || over) await attempt.recordRemoteOrder(null).catch(() => {})
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
        if (!modelPattern.test(order.providerModel)) throw new Error('That is no name of a model of fal')
        const noted = requestIdOf(attempt.remoteOrder)
        if (noted === undefined) return await placeOrder(order, attempt, budget)
        return await resume(order, noted, attempt, budget).catch((error: unknown) => {
          if (isUnknown(error)) return placeOrder(order, attempt, budget)
          throw error
        })
      } catch (error) {
        throw toFailure(error, budget)
      }
    },
    cancel: async (providerModel, noted) => {
      const requestId = requestIdOf(noted)
      if (requestId !== undefined) await cancel(providerModel, requestId)
    },
  }
}
