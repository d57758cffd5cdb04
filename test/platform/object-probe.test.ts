import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createObjectProbe } from '../../src/platform/object-probe.ts'

const create = (limitMs = 1_000) => {
  const clock = manualClock()
  const logged: unknown[] = []
  const log = ({ event }: { event?: string }) => void logged.push(event)
  const probes: PromiseWithResolvers<void>[] = []
  const probe = createObjectProbe({
    objects: {
      probe: () => {
        const next = Promise.withResolvers<void>()
        probes.push(next)
        return next.promise
      },
    },
    clock,
    log: { debug: log, info: log, warn: log, error: log } as never,
    limitMs,
  })
  return { clock, logged, probes, probe }
}

describe('the probe of the object store', () => {
  test('is shared by concurrent calls, and its finding is reused for 30 s', async () => {
    const { clock, logged, probes, probe } = create()
    const answers = Promise.all([probe.isWorking(), probe.isWorking(), probe.findFailure()])
    probes[0]?.resolve()
    expect(await answers).toEqual([true, true, undefined])
    clock.advance(29_999)
    expect([await probe.isWorking(), probes.length]).toEqual([true, 1])
    clock.advance(1)
    const again = probe.isWorking()
    probes[1]?.resolve()
    expect([await again, probes.length, logged]).toEqual([true, 2, []])
  })

  test('that fails is repeated after 5 s, without a wait, and each change is logged once', async () => {
    const { clock, logged, probes, probe } = create()
    const failing = [probe.isWorking(), probe.findFailure()]
    const error = new Error('no room')
    probes[0]?.reject(error)
    expect(await Promise.all(failing)).toEqual([false, error])
    clock.advance(4_999)
    expect([await probe.isWorking(), probes.length]).toEqual([false, 1])
    clock.advance(1)
    expect([await probe.isWorking(), await probe.isWorking(), probes.length]).toEqual([false, false, 2])
    probes[1]?.resolve()
    expect([await probe.findFailure(), await probe.isWorking()]).toEqual([undefined, true])
    expect(logged).toEqual(['media.storage_unavailable', 'media.storage_available'])
  })

  test('that takes too long counts as failed until it ends', async () => {
    const { probes, probe } = create(5)
    expect(await probe.isWorking()).toBe(false)
    const later = probe.isWorking()
    probes[0]?.resolve()
    expect([await later, probes.length]).toEqual([true, 1])
  })
})
