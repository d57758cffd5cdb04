import { expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { ImageRefused, type RenderRequest } from '../../src/media/images/images.ts'
import { PoolBusy } from '../../src/platform/worker-pool.ts'
import { classifyProviderError } from '../../src/providers/failure.ts'
import { createLocalProvider } from '../../src/providers/local/provider.ts'
import { type Order, ProviderFailed } from '../../src/providers/provider.ts'

const order = (more: Partial<Order> = {}): Order => ({
  generationId: 'g',
  providerModel: 'local/procedural',
  kind: 'image',
  prompt: 'a lighthouse',
  negativePrompt: 'people',
  parameters: { width: 128, height: 64, seed: 2 ** 32 - 2, format: 'png' },
  outputs: 3,
  ...more,
})

const setUp = (draw: (request: RenderRequest) => void = () => {}) => {
  const requests: RenderRequest[] = []
  const heard: number[] = []
  const provider = createLocalProvider({
    clock: manualClock(),
    images: {
      render: async (request, _, { signal, onProgress } = {}) => {
        signal?.throwIfAborted()
        requests.push(request)
        draw(request)
        onProgress?.(0.5)
        onProgress?.(1)
        return new Uint8Array([requests.length])
      },
    },
  })
  const abort = new AbortController()
  const attempt = {
    signal: abort.signal,
    onProgress: (fraction: number) => void heard.push(Math.round(fraction * 6)),
    remoteOrder: null,
    recordRemoteOrder: async () => {},
  }
  return { provider, attempt, abort, requests, heard }
}

test('draws as many as were ordered, each by the seed after the one before, and tells how far it is', async () => {
  const { provider, attempt, requests, heard } = setUp()
  const made = await provider.generate(order(), attempt)
  expect(made.map(({ bytes }) => [...bytes])).toEqual([[1], [2], [3]])
  expect(requests.map(({ seed }) => seed)).toEqual([2 ** 32 - 2, 2 ** 32 - 1, 0])
  expect(requests[0]).toEqual({
    prompt: 'a lighthouse',
    negative_prompt: 'people',
    seed: 2 ** 32 - 2,
    width: 128,
    height: 64,
    format: 'png',
  })
  expect(heard).toEqual([1, 2, 3, 4, 5, 6])
})

test('draws nothing more once it is told to stop', async () => {
  const { provider, attempt, abort, requests } = setUp(() => abort.abort(new Error('stop')))
  await expect(provider.generate(order(), attempt)).rejects.toThrow('stop')
  expect(requests).toHaveLength(1)
})

test('every error on the way has a word that its owner is told', () => {
  const refused = new ProviderFailed('refused', { retryable: false })
  expect(classifyProviderError(refused)).toEqual({ reason: 'refused', retryable: false })
  expect(classifyProviderError(new ImageRefused('damaged'))).toEqual({ reason: 'invalid_output', retryable: false })
  expect(classifyProviderError(new PoolBusy())).toEqual({ reason: 'unavailable', retryable: true })
  expect(classifyProviderError('whatever')).toEqual({ reason: 'failed', retryable: true })
})
