import { afterEach, beforeEach, describe, expect, jest, test } from 'bun:test'
import { createPostgresWatch, type PostgresWatch } from '../../src/access/cache/postgres-watch.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createBreakers } from '../../src/platform/breaker.ts'
import { databaseFault, isConnectFailure } from '../../src/platform/postgres.ts'

const leaseMs = 1_000
const silent = { info: () => {}, warn: () => {} }

describe('the watch of Postgres', () => {
  let clock: ReturnType<typeof manualClock>
  let traffic: { received: number; underWay: number }
  let lease: { untilMs: number }
  let probes: (PromiseWithResolvers<boolean> & { withinMs: number | undefined })[]
  let cuts: number
  let isRefusing: boolean
  let watch: PostgresWatch
  let breakers: ReturnType<typeof createBreakers>

  beforeEach(() => {
    jest.useFakeTimers()
    clock = manualClock()
    traffic = { received: 0, underWay: 0 }
    lease = { untilMs: leaseMs }
    probes = []
    cuts = 0
    isRefusing = false
    breakers = createBreakers({ clock, log: silent })
    watch = createPostgresWatch({
      breakers,
      clock,
      leaseMs,
      database: {
        traffic: () => ({ ...traffic }),
        refuseStatements: () => {
          isRefusing = true
          cuts += 1
        },
        admitStatements: () => {
          isRefusing = false
        },
        isReachable: (withinMs) => {
          const probe = { ...Promise.withResolvers<boolean>(), withinMs }
          probes.push(probe)
          return probe.promise
        },
      },
    })
    watch.start({ lease })
  })
  afterEach(() => {
    watch.close()
    jest.useRealTimers()
  })

  const flush = async () => {
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve()
  }
  /** `each` runs before each look. */
  const pass = async (ms: number, each: () => void = () => {}) => {
    for (let passed = 0; passed < ms; passed += 100) {
      each()
      clock.advance(100)
      jest.advanceTimersByTime(100)
      await flush()
    }
  }
  const renewLease = () => {
    lease.untilMs = clock.monotonic() + leaseMs
  }
  const settle = async (at: number, isReachable: boolean) => {
    probes[at]?.resolve(isReachable)
    await flush()
  }
  const openBreaker = async () => {
    await pass(700)
    await settle(0, false)
  }

  test('asks once half of the lease has passed without a heartbeat, and opens the breaker if there is no answer', async () => {
    await pass(2_000, renewLease)
    expect(probes.length).toBe(0)
    await pass(700)
    expect(probes.map(({ withinMs }) => withinMs)).toEqual([750])
    expect(watch.isOpen()).toBeFalse()
    const events: string[] = []
    watch.onOpen(() => void events.push(`open, ${cuts} cut`))
    await settle(0, false)
    expect([watch.isOpen(), events]).toEqual([true, ['open, 1 cut']])
    expect(breakers.list().map(({ name, state, reason }) => [name, state, reason])).toEqual([
      ['postgres', 'open', 'no_answer'],
    ])
  })

  test('asks where statements are under way and no connection receives anything', async () => {
    traffic.underWay = 3
    await pass(500, renewLease)
    expect(probes.length).toBe(0)
    await pass(200, renewLease)
    expect(probes.length).toBe(1)
  })

  test('does not ask while results come in, nor while nothing is under way', async () => {
    traffic.underWay = 3
    await pass(3_000, () => {
      renewLease()
      traffic.received += 1
    })
    traffic.underWay = 0
    await pass(3_000, renewLease)
    expect(probes.length).toBe(0)
  })

  test('leaves the breaker closed where a new connection gets no answer but another one has received something', async () => {
    await pass(700)
    traffic.received += 1
    await settle(0, false)
    expect([watch.isOpen(), cuts]).toEqual([false, 0])
    await pass(1_100)
    expect(probes.length).toBe(2)
    renewLease()
    await settle(1, false)
    expect(watch.isOpen()).toBeFalse()
  })

  test('leaves the breaker closed where Postgres answers, and asks again after a second', async () => {
    await pass(700)
    await settle(0, true)
    await pass(900)
    expect(probes.length).toBe(1)
    await pass(200)
    expect([probes.length, watch.isOpen()]).toEqual([2, false])
  })

  test('does not suspect Postgres after this process itself was paused', async () => {
    traffic.underWay = 3
    lease.untilMs = Number.NEGATIVE_INFINITY
    await pass(300)
    clock.advance(20_000)
    await pass(100)
    expect(probes.length).toBe(0)
  })

  test('refuses statements as failures to connect while the breaker is open, and probes until Postgres answers', async () => {
    await openBreaker()
    let refusal: unknown
    try {
      watch.requireAvailable()
    } catch (error) {
      refusal = error
    }
    expect([databaseFault(refusal)?.code, isConnectFailure(refusal)]).toEqual(['database.unavailable', true])
    expect(await watch.probe()).toBeFalse()
    await pass(600)
    expect(probes.map(({ withinMs }) => withinMs)).toEqual([750, 3_000])
    // No traffic of before proves anything now.
    traffic.received += 1
    await settle(1, false)
    expect([watch.isOpen(), isRefusing, cuts]).toEqual([true, true, 1])
    await pass(600)
    let isClosed = false
    watch.onClose(() => {
      isClosed = true
    })
    await settle(2, true)
    expect([watch.isOpen(), isClosed, isRefusing]).toEqual([false, true, false])
    expect(() => watch.requireAvailable()).not.toThrow()
  })

  test('shares one probe among callers', async () => {
    const answers = [watch.probe(), watch.probe(), watch.probe()]
    await flush()
    expect(probes.length).toBe(1)
    await settle(0, true)
    expect(await Promise.all(answers)).toEqual([true, true, true])
  })

  test('never opens a breaker whose policy is closed', async () => {
    breakers.setPolicy('postgres', { ...breakers.policy('postgres'), mode: 'closed' })
    await openBreaker()
    expect([watch.isOpen(), cuts]).toEqual([false, 0])
  })
})
