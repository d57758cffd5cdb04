import { expect, test } from 'bun:test'
import { systemClock } from '../../src/kit/clock.ts'
import { createMediaStorage } from '../../src/media/media-storage.ts'
import { createLog } from '../../src/platform/log.ts'
import { until } from '../faults/support.ts'

const neverCalled = () => Promise.reject(new Error('This operation must not be called'))

test('closing media storage waits for the deletion in progress and starts no other', async () => {
  const started: string[] = []
  let listings = 0
  const slow = Promise.withResolvers<void>()
  const mediaStorage = createMediaStorage({
    store: {
      claim: neverCalled,
      confirm: neverCalled,
      discard: neverCalled,
      insert: neverCalled,
      postponeSweep: neverCalled,
      discardExpired: async () => {},
      listOrphans: async () => {
        listings += 1
        return ['a', 'b', 'c']
      },
      deleteOrphan: async (sha256) => {
        started.push(sha256)
        await slow.promise
        return true
      },
    },
    images: { inspect: neverCalled, inspectVideo: neverCalled, thumbnail: neverCalled },
    objects: { put: neverCalled, delete: neverCalled, open: neverCalled },
    clock: systemClock,
    log: createLog('silent'),
  })
  const sweep = mediaStorage.sweep()
  await until(() => started.length === 1, 'the sweep has started a deletion')
  const closing = mediaStorage.close()
  expect(await Promise.race([closing.then(() => 'closed'), Bun.sleep(20).then(() => 'waiting')])).toBe('waiting')
  slow.resolve()
  await Promise.all([closing, sweep])
  mediaStorage.scheduleSweep()
  await Bun.sleep(300)
  expect([started, listings]).toEqual([['a'], 1])
})

test('an inspection passes its abort signal to every step of the image workers', async () => {
  const seen: (AbortSignal | undefined)[] = []
  const record = (options: { signal?: AbortSignal } | undefined) => seen.push(options?.signal)
  const mediaStorage = createMediaStorage({
    store: {
      claim: neverCalled,
      confirm: neverCalled,
      discard: neverCalled,
      insert: neverCalled,
      discardExpired: neverCalled,
      listOrphans: neverCalled,
      deleteOrphan: neverCalled,
      postponeSweep: neverCalled,
    },
    images: {
      inspect: async (_, __, options) => {
        record(options)
        return { type: 'png', width: 1, height: 1, sha256: 'a' }
      },
      thumbnail: async (bytes, _, __, options) => {
        record(options)
        return { bytes, width: 1, height: 1 }
      },
      inspectVideo: async (_, __, options) => {
        record(options)
        return { type: 'mp4', width: 1, height: 1, durationMs: 1, sha256: 'b' }
      },
    },
    objects: { put: neverCalled, delete: neverCalled, open: neverCalled },
    clock: systemClock,
    log: createLog('silent'),
  })
  const { signal } = new AbortController()
  await mediaStorage.inspect(new Uint8Array([1]), signal)
  await mediaStorage.inspect(new Uint8Array([1]), signal, 'video')
  expect(seen).toEqual([signal, signal, signal, signal, signal])
})
