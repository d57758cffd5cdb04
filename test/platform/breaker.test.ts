import { beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { type BreakerChange, BreakerOpen, type BreakerPolicy, createBreakers } from '../../src/platform/breaker.ts'

const policy: BreakerPolicy = { mode: 'automatic', failures: 3, probeAfterMs: 1_000 }

describe('a breaker', () => {
  let clock: ReturnType<typeof manualClock>
  let breakers: ReturnType<typeof createBreakers>
  let lines: Record<string, unknown>[]
  let sent: number

  beforeEach(() => {
    clock = manualClock()
    lines = []
    sent = 0
    const write = (fields: object) => void lines.push(fields as Record<string, unknown>)
    breakers = createBreakers({ clock, log: { info: write, warn: write }, defaults: { storage: policy } })
  })

  const create = () => {
    const breaker = breakers.create({ dependency: 'storage' })
    const fail = () =>
      breaker
        .execute(async () => {
          sent += 1
          throw Object.assign(new Error('at storage.internal, key hunter2'), { code: 'ECONNREFUSED' })
        })
        .catch((error) => error)
    const succeed = () =>
      breaker
        .execute(async () => {
          sent += 1
          return 'done'
        })
        .catch((error) => error)
    return { breaker, fail, succeed }
  }
  const open = async (fail: () => Promise<unknown>) => {
    for (let call = 1; call <= 3; call += 1) await fail()
  }

  test('opens after consecutive failures, sends one probe at each interval, and closes when one succeeds', async () => {
    const { breaker, fail, succeed } = create()
    await fail()
    await fail()
    await succeed()
    await open(fail)
    expect([breaker.state, sent, breaker.reason]).toEqual(['open', 6, 'ECONNREFUSED'])
    clock.advance(999)
    expect(await succeed()).toBeInstanceOf(BreakerOpen)
    clock.advance(1)
    const probe = Promise.withResolvers<string>()
    const probing = breaker.execute(() => probe.promise)
    expect(breaker.state).toBe('half_open')
    expect(await succeed()).toBeInstanceOf(BreakerOpen)
    probe.reject(new Error('no'))
    await probing.catch(() => {})
    expect(breaker.state).toBe('open')
    clock.advance(1_000)
    expect(await succeed()).toBe('done')
    expect([breaker.state, breaker.counts]).toEqual(['closed', { opened: 1, failed: 6, refused: 2 }])
  })

  test('logs that it opened and that it closed, once each, and no message of an error', async () => {
    const { fail, succeed } = create()
    await open(fail)
    clock.advance(1_000)
    await fail()
    clock.advance(1_000)
    await succeed()
    expect(lines).toEqual([
      { event: 'breaker.opened', breaker: 'storage', dependency: 'storage', reason: 'ECONNREFUSED' },
      { event: 'breaker.closed', breaker: 'storage', dependency: 'storage' },
    ])
  })

  test('notifies its listeners when it opens and closes', async () => {
    const changes: BreakerChange[] = []
    breakers.onChange((change) => void changes.push(change))
    const { breaker, fail } = create()
    await open(fail)
    breaker.renew()
    expect(changes.map(({ name, state }) => [name, state])).toEqual([
      ['storage', 'open'],
      ['storage', 'closed'],
    ])
    expect(breaker.changedAtMs).toBe(clock.now())
  })

  test('does not count failures that are not those of its dependency', async () => {
    const breaker = breakers.create({ dependency: 'storage', isFailure: () => false })
    for (let call = 1; call <= 10; call += 1) await breaker.execute(() => Promise.reject(new Error())).catch(() => {})
    expect([breaker.state, breaker.counts.failed]).toEqual(['closed', 0])
  })

  test('follows a policy that is changed while it runs', async () => {
    const { breaker, fail, succeed } = create()
    await fail()
    breakers.setPolicy('storage', { ...policy, failures: 2 })
    await fail()
    expect(breaker.state).toBe('open')
    breakers.setPolicy('storage', { ...policy, mode: 'closed' })
    expect(breaker.state).toBe('closed')
    await open(fail)
    expect([breaker.state, sent]).toEqual(['closed', 5])
    breakers.setPolicy('storage', { ...policy, mode: 'open' })
    expect(await succeed()).toBeInstanceOf(BreakerOpen)
    clock.advance(60_000)
    expect([breaker.state, breaker.reason, await succeed()]).toEqual(['open', 'held_open', expect.any(BreakerOpen)])
    breakers.setPolicies({})
    expect([breaker.state, await succeed()]).toEqual(['closed', 'done'])
  })

  test('that was tripped stays open until it is renewed, and calls sent before that count no more', async () => {
    const { breaker, fail, succeed } = create()
    const late = Promise.withResolvers<string>()
    const calls = [1, 2, 3].map(() => breaker.execute(() => late.promise).catch(() => {}))
    breaker.trip(new Error('lost'))
    clock.advance(60_000)
    expect([breaker.state, await succeed()]).toEqual(['open', expect.any(BreakerOpen)])
    breaker.renew()
    late.reject(new Error('lost'))
    await Promise.all(calls)
    expect([breaker.state, await succeed()]).toEqual(['closed', 'done'])
    await fail()
    expect(breaker.state).toBe('closed')
  })

  test('has a name that no other has', () => {
    create()
    expect(create).toThrow('exists already')
    breakers.create({ dependency: 'provider', name: 'provider.a' })
    breakers.create({ dependency: 'provider', name: 'provider.b' })
    expect(breakers.list().map(({ name }) => name)).toEqual(['storage', 'provider.a', 'provider.b'])
  })
})
