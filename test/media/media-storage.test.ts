import { expect, test } from 'bun:test'
import { systemClock } from '../../src/kit/clock.ts'
import { createMediaStorage } from '../../src/media/media-storage.ts'
import { createLog } from '../../src/platform/log.ts'
import { until } from '../faults/support.ts'

const nobody = () => Promise.reject(new Error('Nobody asks for this'))

test('a keeper that is closed waits for the object it is at, and begins with no other', async () => {
  const begun: string[] = []
  let looks = 0
  const slow = Promise.withResolvers<void>()
  const mediaStorage = createMediaStorage({
    store: {
      claim: nobody,
      confirm: nobody,
      discard: nobody,
      insert: nobody,
      postponeSweep: nobody,
      discardExpired: async () => {},
      listOrphans: async () => {
        looks += 1
        return ['a', 'b', 'c']
      },
      deleteOrphan: async (sha256) => {
        begun.push(sha256)
        await slow.promise
        return true
      },
    },
    images: { inspect: nobody, inspectVideo: nobody, thumbnail: nobody },
    objects: { put: nobody, delete: nobody, open: nobody },
    clock: systemClock,
    log: createLog('silent'),
  })
  const sweep = mediaStorage.sweep()
  await until(() => begun.length === 1, 'a sweep')
  const closing = mediaStorage.close()
  expect(await Promise.race([closing.then(() => 'closed'), Bun.sleep(20).then(() => 'waiting')])).toBe('waiting')
  slow.resolve()
  await Promise.all([closing, sweep])
  mediaStorage.scheduleSweep()
  await Bun.sleep(300)
  expect([begun, looks]).toEqual([['a'], 1])
})

test('what nobody waits for any longer is called off wherever it is looked at', async () => {
  const seen: (AbortSignal | undefined)[] = []
  const note = (options: { signal?: AbortSignal } | undefined) => seen.push(options?.signal)
  const mediaStorage = createMediaStorage({
    store: {
      claim: nobody,
      confirm: nobody,
      discard: nobody,
      insert: nobody,
      discardExpired: nobody,
      listOrphans: nobody,
      deleteOrphan: nobody,
      postponeSweep: nobody,
    },
    images: {
      inspect: async (_, __, options) => {
        note(options)
        return { type: 'png', width: 1, height: 1, sha256: 'a' }
      },
      thumbnail: async (bytes, _, __, options) => {
        note(options)
        return { bytes, width: 1, height: 1 }
      },
      inspectVideo: async (_, __, options) => {
        note(options)
        return { type: 'mp4', width: 1, height: 1, durationMs: 1, sha256: 'b' }
      },
    },
    objects: { put: nobody, delete: nobody, open: nobody },
    clock: systemClock,
    log: createLog('silent'),
  })
  const { signal } = new AbortController()
  await mediaStorage.inspect(new Uint8Array([1]), signal)
  await mediaStorage.inspect(new Uint8Array([1]), signal, 'video')
  expect(seen).toEqual([signal, signal, signal, signal, signal])
})
