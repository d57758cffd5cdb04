import { expect, test } from 'bun:test'
import { createFlags, type FlagValues } from '../../src/access/cache/tier-switches.ts'

const on: FlagValues = { l1: true, l2: true, l3: true, warm_up: true }

test('the result of a read that began earlier and ended later is ignored', async () => {
  const slow = Promise.withResolvers<FlagValues>()
  const flags = createFlags(() => slow.promise, on)
  const early = flags.reload()
  await flags.reload(async () => ({ ...on, l1: false }))
  expect(flags.current.l1).toBe(false)
  slow.resolve(on)
  await early
  expect(flags.current.l1).toBe(false)
})

test('a read during which a change is received is repeated, and its result then applies', async () => {
  const lists: ((values: FlagValues) => void)[] = []
  const flags = createFlags(() => new Promise((resolve) => lists.push(resolve)), on)
  const early = flags.reload()
  await flags.reload(async () => ({ ...on, l2: false }))
  flags.onInvalidated(['flag:l1=f'] as never)
  lists[0]?.(on)
  while (lists.length < 2) await Promise.resolve()
  expect(flags.current).toEqual({ ...on, l1: false, l2: false })
  lists[1]?.({ ...on, l1: false })
  await early
  expect(flags.current).toEqual({ ...on, l1: false })
})
