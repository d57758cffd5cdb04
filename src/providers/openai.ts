import { Buffer } from 'node:buffer'
import type { Order, Output } from './provider.ts'
import {
  type Budget,
  createBudget,
  createRemote,
  field,
  invalidResponse,
  type RemoteOptions,
  type RemoteProvider,
  toFailure,
} from './remote.ts'

export type OpenaiOptions = Omit<RemoteOptions, 'name' | 'baseUrl' | 'authorization' | 'callMs'> & {
  readonly key: string
  /** Without a slash at its end. */
  readonly baseUrl: string
  /** Of one attempt. */
  readonly deadlineMs?: number
  /** Of one try at a call, in which the pictures are made. */
  readonly callMs?: number
  /** Of an answer, which holds the pictures. */
  readonly maxAnswerBytes?: number
}

const isBase64 = (text: string) => text.length % 4 === 0 && /^[A-Za-z0-9+/]+={0,2}$/.test(text)

/**
 * Any images API that is compatible with OpenAI's (https://developers.openai.com/api/reference/resources/images): one call,
 * answered when the pictures are made, with them inside as base64 or with URLs of them.
 *
 * Promise: as for every provider. Nothing is noted, because the API has nothing that could be gone on with.
 * How it degrades: an attempt that comes after one that was cut off orders again, and what the first one ordered is paid
 * for. A call that hangs is not repeated within the attempt.
 */
export const createOpenai = (options: OpenaiOptions): RemoteProvider => {
  const { clock, key, callMs = 240_000, deadlineMs = 300_000, maxAnswerBytes = 67_108_864 } = options
  const remote = createRemote({ ...options, name: 'openai', authorization: `Bearer ${key}`, callMs })

  const order = async ({ providerModel, prompt, outputs, parameters }: Order, budget: Budget): Promise<unknown[]> => {
    const body = { ...parameters, model: providerModel, prompt, n: outputs }
    const call = { method: 'POST', path: '/images/generations', body, maxBytes: maxAnswerBytes } as const
    const data = field(await remote.call(call, budget), 'data')
    const made = Array.isArray(data) ? data : []
    if (made.length < outputs) throw invalidResponse(`openai made ${made.length} of ${outputs} outputs`)
    return made.slice(0, outputs)
  }

  const take = async (item: unknown, budget: Budget): Promise<Output> => {
    const [inside, url] = [field(item, 'b64_json'), field(item, 'url')]
    if (typeof inside === 'string' && isBase64(inside)) return { bytes: new Uint8Array(Buffer.from(inside, 'base64')) }
    if (typeof url !== 'string') throw invalidResponse('An output of openai is neither base64 nor a URL')
    return { bytes: await remote.fetchOutput(url, 'image', budget) }
  }

  return {
    name: 'openai',
    state: remote.state,
    generate: async (ordered, attempt) => {
      const budget = createBudget(clock, deadlineMs, attempt.signal)
      try {
        budget.signal.throwIfAborted()
        const items = await order(ordered, budget)
        const outputs: Output[] = []
        for (const item of items) {
          outputs.push(await take(item, budget))
          attempt.onProgress(outputs.length / items.length)
        }
        return outputs
      } catch (error) {
        throw toFailure(error, budget)
      }
    },
  }
}
