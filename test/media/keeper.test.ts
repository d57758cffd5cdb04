import { expect, test } from 'bun:test'
import { systemClock } from '../../src/kit/clock.ts'
import { createKeeper } from '../../src/media/keeper.ts'
import { createLog } from '../../src/platform/log.ts'
import { until } from '../faults/support.ts'

const nobody = () => Promise.reject(new Error('Nobody asks for this'))

test('a keeper that is closed waits for the object it is at, and begins with no other', async () => {
  const begun: string[] = []
  let looks = 0
  const slow = Promise.withResolvers<void>()
  const keeper = createKeeper({
    store: {
      claim: nobody,
      redeem: nobody,
      abandon: nobody,
      insert: nobody,
      abandonOld: async () => {},
      listOrphans: async () => {
        looks += 1
        return ['a', 'b', 'c']
      },
      letGo: async (sha256) => {
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
  const sweep = keeper.sweep()
  await until(() => begun.length === 1, 'a sweep')
  const closing = keeper.close()
  expect(await Promise.race([closing.then(() => 'closed'), Bun.sleep(20).then(() => 'waiting')])).toBe('waiting')
  slow.resolve()
  await Promise.all([closing, sweep])
  keeper.sweepSoon()
  await Bun.sleep(300)
  expect([begun, looks]).toEqual([['a'], 1])
})
