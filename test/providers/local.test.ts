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
  const progress: number[] = []
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
    onProgress: (fraction: number) => void progress.push(Math.round(fraction * 6)),
    remoteOrder: null,
    recordRemoteOrder: async () => {},
  }
  return { provider, attempt, abort, requests, progress }
}

test('the local provider renders each ordered image with the next seed and reports its progress', async () => {
  const { provider, attempt, requests, progress } = setUp()
  const outputs = await provider.generate(order(), attempt)
  expect(outputs.map(({ bytes }) => [...bytes])).toEqual([[1], [2], [3]])
  expect(requests.map(({ seed }) => seed)).toEqual([2 ** 32 - 2, 2 ** 32 - 1, 0])
  expect(requests[0]).toEqual({
    prompt: 'a lighthouse',
    negative_prompt: 'people',
    seed: 2 ** 32 - 2,
    width: 128,
    height: 64,
    format: 'png',
  })
  expect(progress).toEqual([1, 2, 3, 4, 5, 6])
})

test('the local provider renders no further image after its attempt is aborted', async () => {
  const { provider, attempt, abort, requests } = setUp(() => abort.abort(new Error('stop')))
  await expect(provider.generate(order(), attempt)).rejects.toThrow('stop')
  expect(requests).toHaveLength(1)
})

test('every error of an attempt is classified by a reason for its owner and by whether to retry', () => {
  const refused = new ProviderFailed('refused', { retryable: false })
  expect(classifyProviderError(refused)).toEqual({ reason: 'refused', retryable: false })
  expect(classifyProviderError(new ImageRefused('damaged'))).toEqual({ reason: 'invalid_output', retryable: false })
  expect(classifyProviderError(new PoolBusy())).toEqual({ reason: 'unavailable', retryable: true })
  expect(classifyProviderError('any other error')).toEqual({ reason: 'failed', retryable: true })
})
