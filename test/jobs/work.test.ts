import { expect, test } from 'bun:test'
import { createWork } from '../../src/jobs/work.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { ImageRefused, VideoRefused } from '../../src/media/images/images.ts'
import { FetchRefused } from '../../src/platform/safe-fetch.ts'
import { PoolBusy, WorkTimedOut } from '../../src/platform/worker-pool.ts'
import { ProviderFailed } from '../../src/providers/provider.ts'

type Options = Parameters<typeof createWork<string>>[0]
const neverCalled = () => Promise.reject(new Error('This operation must not be called'))
const job = {
  generation_id: 'g',
  attempt: 1,
  failures: 0,
  remote: null,
  owner_id: 'o',
  model: 'm',
  prompt: '',
  negative_prompt: '',
  parameters: {},
  outputs: 1,
  reference_sha256: null,
  age_ms: 0,
}

/** A job whose provider delivers one output; `inspect` is that of media storage. */
const setUp = (inspect: Options['mediaStorage']['inspect'], digitalSource?: string) => {
  let orders = 0
  const provider = {
    name: 'fal' as const,
    ...(digitalSource !== undefined && { digitalSource }),
    generate: async () => {
      orders += 1
      return [{ bytes: new Uint8Array([1]) }]
    },
  }
  const work = createWork<string>({
    store: { complete: neverCalled, failPermanently: neverCalled },
    changes: { commitAndInvalidate: neverCalled },
    clock: manualClock(),
    models: { find: () => ({ model: { id: 'm', provider_model: 'm', kind: 'video' }, provider }) },
    mediaStorage: { readReference: neverCalled, inspect, put: neverCalled, discard: neverCalled, confirm: neverCalled },
    generations: { finish: neverCalled },
    credits: { settle: neverCalled, refund: neverCalled },
  })
  const make = (signal = new AbortController().signal) =>
    work.make(job, { signal, onProgress: () => {}, recordRemoteOrder: neverCalled })
  return { work, make, orders: () => orders }
}

test('an output is inspected again while the image workers are busy, and is not ordered again', async () => {
  let tries = 0
  const { make, orders } = setUp(async () => {
    tries += 1
    if (tries === 1) throw new PoolBusy()
    return 'media'
  })
  expect(await make()).toEqual(['media'])
  expect([tries, orders()]).toEqual([2, 1])
})

test('waiting for busy image workers ends when the attempt is aborted', async () => {
  const abort = new AbortController()
  const { make } = setUp(async () => {
    abort.abort(new Error('over'))
    throw new PoolBusy()
  })
  await expect(make(abort.signal)).rejects.toThrow('over')
})

test('an output that takes the whole time limit of an image worker is refused for good', async () => {
  const { work, make } = setUp(async () => {
    throw new WorkTimedOut('30 s')
  })
  const error = await make().catch((cause) => cause)
  expect(work.classifyFailure(error)).toEqual({ reason: 'invalid_output', retryable: false, detail: 'damaged' })
})

test('a refused output is named by its reason', () => {
  const { work } = setUp(neverCalled)
  const named = { reason: 'invalid_output', retryable: false }
  const fetched = (cause: FetchRefused) => new ProviderFailed('invalid_output', { retryable: false, cause })
  expect(work.classifyFailure(new VideoRefused('fragmented'))).toEqual({ ...named, detail: 'fragmented' })
  expect(work.classifyFailure(new ImageRefused('animated'))).toEqual({ ...named, detail: 'animated' })
  expect(work.classifyFailure(fetched(new FetchRefused('type', '')))).toEqual({ ...named, detail: 'type_not_accepted' })
  expect(work.classifyFailure(fetched(new FetchRefused('size', '')))).toEqual({ ...named, detail: 'too_many_bytes' })
  expect(work.classifyFailure(fetched(new FetchRefused('host', '')))).toEqual(named)
})

test('an output is inspected as one that a model made, unless its provider says otherwise', async () => {
  const sources: string[] = []
  const inspect: Options['mediaStorage']['inspect'] = async (_bytes, _signal, _kind, madeBy) => {
    sources.push(madeBy)
    return 'media'
  }
  await setUp(inspect).make()
  await setUp(inspect, 'algorithmicMedia').make()
  expect(sources).toEqual(['trainedAlgorithmicMedia', 'algorithmicMedia'])
})
