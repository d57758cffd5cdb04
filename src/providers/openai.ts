import { Buffer } from 'node:buffer'
import { type Order, type Output, ProviderFailed } from './provider.ts'
import { invalidResponse } from './provider-error.ts'
import {
  type Budget,
  createBudget,
  createRemote,
  field,
  type RemoteOptions,
  type RemoteProvider,
  toFailure,
} from './remote.ts'

export type OpenaiOptions = Omit<RemoteOptions, 'name' | 'baseUrl' | 'authorization' | 'callMs'> & {
  readonly key: string
  /** Without a trailing slash. */
  readonly baseUrl: string
  /** Limit for one attempt. */
  readonly deadlineMs?: number
  /** Limit for one try of the call, during which the images are generated. */
  readonly callMs?: number
  /** Limit for the size of a response, which contains the images. */
  readonly maxResponseBytes?: number
}

/** The API answered, so the order was carried out and is paid for: an unusable response must not lead to another order. */
const toFinal = (error: unknown): unknown =>
  error instanceof ProviderFailed && error.failure === 'invalid_output' && error.retryable
    ? new ProviderFailed('invalid_output', { retryable: false, cause: error.cause })
    : error

const isBase64 = (text: string) => text.length % 4 === 0 && /^[A-Za-z0-9+/]+={0,2}$/.test(text)

/**
 * Any API compatible with OpenAI's images API (https://developers.openai.com/api/reference/resources/images): one call, which
 * responds when the images are generated and contains them as base64 or as URLs.
 *
 * Promise: that of every provider. No remote order is recorded, because the API has none that could be resumed. An order whose
 * response is unusable is not placed again.
 * How it degrades: after an interrupted attempt the next one orders again, and both orders are paid for. The first is logged
 * as `provider.order_unclear`, unless the process was killed during the call.
 */
export const createOpenai = (options: OpenaiOptions): RemoteProvider => {
  const { clock, key, callMs = 240_000, deadlineMs = 300_000, maxResponseBytes = 67_108_864 } = options
  const remote = createRemote({ ...options, name: 'openai', authorization: `Bearer ${key}`, callMs })

  const placeOrder = async (
    { generationId, providerModel, prompt, outputs, parameters }: Order,
    budget: Budget,
  ): Promise<unknown[]> => {
    const body = { ...parameters, model: providerModel, prompt, n: outputs }
    const path = '/images/generations'
    const call = { method: 'POST', path, generationId, body, maxBytes: maxResponseBytes } as const
    const data = field(await remote.call(call, budget), 'data')
    const items = Array.isArray(data) ? data : []
    if (items.length < outputs) throw invalidResponse(`openai returned ${items.length} of ${outputs} outputs`)
    return items.slice(0, outputs)
  }

  const readOutput = async (item: unknown, budget: Budget): Promise<Output> => {
    const [base64, url] = [field(item, 'b64_json'), field(item, 'url')]
    if (typeof base64 === 'string' && isBase64(base64)) return { bytes: new Uint8Array(Buffer.from(base64, 'base64')) }
    if (typeof url !== 'string') throw invalidResponse('An output of openai is neither base64 nor a URL')
    return { bytes: await remote.fetchOutput(url, 'image', budget) }
  }

  return {
    name: 'openai',
    state: remote.state,
    generate: async (order, attempt) => {
      const budget = createBudget(clock, deadlineMs, attempt.signal)
      try {
        budget.signal.throwIfAborted()
        const items = await placeOrder(order, budget)
        const outputs: Output[] = []
        for (const item of items) {
          outputs.push(await readOutput(item, budget))
          attempt.onProgress(outputs.length / items.length)
        }
        return outputs
      } catch (error) {
        throw toFailure(toFinal(error), budget)
      }
    },
  }
}
