import { afterEach, beforeEach, describe, expect, type Mock, spyOn, test } from 'bun:test'
import { type Bus, createBus } from '../../src/access/invalidation/bus.ts'
import type { InvalidationEvent } from '../../src/access/invalidation/model.ts'
import { defaultLeaseTiming, type LeaseTiming } from '../../src/access/invalidation/timing.ts'
import { channelOf, commonChannel } from '../../src/access/invalidation/topics.ts'
import { manualClock } from '../../src/kit/clock.ts'

const { leaseMs, heartbeatMs } = defaultLeaseTiming

/** A bus whose line, clock and timers do what the test says when it says so. */
const setUp = (options: { acknowledge?: boolean; timing?: LeaseTiming } = {}) => {
  const clock = manualClock()
  const sent: { channel: string; payload: string }[] = []
  const told: string[] = []
  const eventReads: PromiseWithResolvers<InvalidationEvent | undefined>[] = []
  const standingReads: PromiseWithResolvers<readonly InvalidationEvent[]>[] = []
  const timers = new Set<{ dueMs: number; call: () => void }>()
  const line = { restarts: 0 }
  const bus = createBus({
    instance: 'me',
    clock,
    ...options,
    after: (ms, call) => {
      const timer = { dueMs: clock.monotonic() + ms, call }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    connection: {
      send: async (channel, payload) => void sent.push({ channel, payload }),
      readEvent: () => {
        const read = Promise.withResolvers<InvalidationEvent | undefined>()
        eventReads.push(read)
        return read.promise
      },
      readPendingEvents: () => {
        const read = Promise.withResolvers<readonly InvalidationEvent[]>()
        standingReads.push(read)
        return read.promise
      },
      restart: () => {
        line.restarts += 1
        bus.connection.onLost()
      },
    },
    handlers: {
      onEvent: ({ id, keys }) => void told.push(`event ${id} ${typeof keys === 'string' ? keys : keys.join(' ')}`),
      onReset: (pendingInvalidations) =>
        void told.push(['reset', ...pendingInvalidations.map(({ id }) => id)].join(' ')),
      onConfirmed: (ids, incarnation) => void told.push(`confirmed ${incarnation} ${ids.join(' ')}`),
    },
  })
  const beats = () => sent.filter(({ payload }) => payload.startsWith('beat ')).map(({ payload }) => payload)
  return {
    bus,
    clock,
    sent,
    told,
    line,
    eventReads,
    standingReads,
    beats,
    timersLeft: () => timers.size,
    hear: (...payloads: string[]) => {
      for (const payload of payloads) bus.connection.onMessage(payload)
    },
    acks: () => sent.filter(({ payload }) => payload.startsWith('ack ')),
    isLeased: () => clock.monotonic() < bus.lease.untilMs,
    pass: (ms: number) => {
      clock.advance(ms)
      for (const timer of timers) {
        if (timer.dueMs > clock.monotonic()) continue
        timers.delete(timer)
        timer.call()
      }
    },
    /** The connection is made, and what stands was read. */
    open: async (...pendingInvalidations: InvalidationEvent[]) => {
      bus.connection.onOpen()
      standingReads.at(-1)?.resolve(pendingInvalidations)
      await settle()
    },
  }
}

const settle = () => new Promise<void>((resolve) => setImmediate(resolve))
const nothing = Symbol('not yet')
const outcome = async <T>(promise: Promise<T>): Promise<T | typeof nothing> => {
  await settle()
  return Promise.race([promise, Promise.resolve(nothing)]) as Promise<T | typeof nothing>
}
const isDone = async (promise: Promise<unknown>) => (await outcome(promise)) !== nothing

let ticking: Mock<typeof setInterval>
/** What the bus does every now and then, which is to beat. */
const tick = () => {
  const [work] = ticking.mock.calls.at(-1) ?? []
  if (typeof work === 'function') work()
}

let me: ReturnType<typeof setUp>
let bus: Bus

beforeEach(() => {
  ticking = spyOn(globalThis, 'setInterval').mockImplementation((() => undefined) as unknown as typeof setInterval)
  me = setUp()
  bus = me.bus
})
afterEach(() => void ticking.mockRestore())

/** Connected for so long that everybody there is was heard. */
const openForLong = async () => {
  await me.open()
  for (let passed = 0; passed <= 2 * leaseMs; passed += heartbeatMs) {
    me.pass(heartbeatMs)
    me.hear(me.beats().at(-1) as string)
    tick()
  }
}

describe('memory is believed', () => {
  test('for a lease from when the heartbeat was sent, not from when it came back', async () => {
    expect(me.isLeased()).toBeFalse()
    await me.open()
    const sentMs = me.clock.monotonic()
    expect(me.sent).toEqual([{ channel: commonChannel, payload: me.beats()[0] as string }])
    expect(me.isLeased()).toBeFalse()
    me.pass(300)
    me.hear(me.beats()[0] as string)
    expect(bus.lease.untilMs).toBe(sentMs + leaseMs)
    me.pass(leaseMs - 301)
    expect(me.isLeased()).toBeTrue()
    me.pass(1)
    expect(me.isLeased()).toBeFalse()
  })

  test('for no heartbeat but one’s own, and not for one that was never sent', async () => {
    await me.open()
    const [own = ''] = me.beats()
    me.hear(own.replace('me', 'other'), 'beat me 1.99', 'beat me', 'beat', `ack ${own.slice(5)}`)
    expect(me.isLeased()).toBeFalse()
  })

  test('for no heartbeat of an earlier connection', async () => {
    await me.open()
    const [early = ''] = me.beats()
    bus.connection.onLost()
    me.hear(early)
    await me.open()
    me.hear(early)
    expect(me.isLeased()).toBeFalse()
    me.hear(me.beats()[1] as string)
    expect(me.isLeased()).toBeTrue()
  })

  test('not for a heartbeat that comes late', async () => {
    await me.open()
    me.pass(leaseMs)
    me.hear(me.beats()[0] as string)
    expect(me.isLeased()).toBeFalse()
  })

  test('no shorter because an earlier heartbeat comes once more', async () => {
    await me.open()
    me.pass(heartbeatMs)
    tick()
    const [first = '', second = ''] = me.beats()
    me.hear(second, first)
    expect(bus.lease.untilMs).toBe(heartbeatMs + leaseMs)
  })

  test('after a freeze only when a heartbeat has come back that was sent after it', async () => {
    await openForLong()
    tick()
    me.pass(5_000)
    const before = me.beats().slice(-2)
    me.hear(before[0] as string, 'event 7 other project:p', before[1] as string)
    expect(me.told.at(-1)).toBe('event 7 project:p')
    expect(me.isLeased()).toBeFalse()
    tick()
    expect(me.isLeased()).toBeFalse()
    me.hear(me.beats().at(-1) as string)
    expect(bus.lease.untilMs).toBe(me.clock.monotonic() + leaseMs)
  })

  test('not while names of a change before the heartbeat are still being fetched', async () => {
    await me.open()
    me.hear('event 7 other *', me.beats()[0] as string)
    expect(me.isLeased()).toBeFalse()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.told).toEqual(['reset', 'event 7 project:p'])
    expect(me.isLeased()).toBeTrue()
  })
})

describe('a writer', () => {
  beforeEach(openForLong)

  test('that is alone waits for its own event', async () => {
    const heard = bus.registerCommit('1').acknowledgedByAll()
    expect(await isDone(heard)).toBeFalse()
    me.hear('event 1 me project:p')
    expect(await isDone(heard)).toBeTrue()
    expect(me.timersLeft()).toBe(0)
  })

  test('waits for exactly those it heard within two leases before its own event came back', async () => {
    me.hear('beat gone 1.1')
    me.pass(1)
    me.hear('beat quiet 1.1')
    me.pass(2 * leaseMs)
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('beat lively 1.1', 'event 1 me project:p', 'beat late 1.1')
    expect(await isDone(heard)).toBeFalse()
    me.hear('ack late 1', 'ack lively 1')
    expect(await isDone(heard)).toBeFalse()
    me.hear('ack quiet 2')
    expect(await isDone(heard)).toBeFalse()
    me.hear('ack quiet 2 1 3')
    expect(await isDone(heard)).toBeTrue()
  })

  test('goes on when the last one it waits for says goodbye', async () => {
    me.hear('beat a 1.1', 'beat b 1.1')
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('event 1 me project:p', 'ack a 1', 'bye c')
    expect(await isDone(heard)).toBeFalse()
    me.hear('bye b')
    expect(await isDone(heard)).toBeTrue()
    expect(bus.members()).toEqual(['a'])
  })

  test('goes on a lease after the commit without those who do not answer, and not before', async () => {
    me.hear('beat frozen 1.1')
    const announced = bus.registerCommit('1')
    me.hear('event 1 me project:p')
    me.pass(500)
    const heard = announced.acknowledgedByAll()
    me.pass(leaseMs - 1)
    expect(await isDone(heard)).toBeFalse()
    me.pass(100)
    expect(await isDone(heard)).toBeTrue()
  })

  test('that never hears its own event waits a lease, whoever answered', async () => {
    me.hear('beat a 1.1')
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('ack a 1')
    me.pass(leaseMs)
    expect(await isDone(heard)).toBeFalse()
    me.pass(100)
    expect(await isDone(heard)).toBeTrue()
  })

  test('takes answers that come before its own event', async () => {
    me.hear('beat a 1.1', 'beat b 1.1')
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('ack a 1', 'event 1 me project:p')
    expect(await isDone(heard)).toBeFalse()
    me.hear('ack b 1')
    expect(await isDone(heard)).toBeTrue()
  })

  test('takes answers that come before it is told of its commit', async () => {
    me.hear('beat a 1.1')
    const announced = bus.registerCommit('1')
    me.hear('event 1 me project:p', 'ack a 1')
    expect(await isDone(announced.acknowledgedByAll())).toBeTrue()
  })

  test('of many changes gets each one’s answers', async () => {
    me.hear('beat a 1.1', 'beat b 1.1')
    const [one, two] = [bus.registerCommit('1').acknowledgedByAll(), bus.registerCommit('2').acknowledgedByAll()]
    me.hear('event 1 me project:p', 'event 2 me project:p', 'ack a 1 2', 'ack b 2')
    expect([await isDone(one), await isDone(two)]).toEqual([false, true])
  })

  test('that dropped its change is not disturbed by what it hears of it', async () => {
    bus.registerCommit('1').abandon()
    me.hear('ack a 1', 'event 1 me project:p')
    expect(me.told.at(-1)).toBe('event 1 project:p')
  })

  test('that is told not to wait does not', async () => {
    me = setUp({ acknowledge: false })
    await me.open()
    me.hear('beat a 1.1')
    expect(await isDone(me.bus.registerCommit('1').acknowledgedByAll())).toBeTrue()
  })
})

describe('a writer that has listened for less than a lease', () => {
  test('waits for those it may not have heard, because one of them may hold a lease from before', async () => {
    await me.open()
    me.pass(400)
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('beat a 1.1', 'event 1 me project:p', 'ack a 1')
    expect(await isDone(heard)).toBeFalse()
    me.pass(leaseMs - 400)
    expect(await isDone(heard)).toBeFalse()
    me.pass(100)
    expect(await isDone(heard)).toBeTrue()
  })

  test('and so does one whose connection was lost', async () => {
    await openForLong()
    bus.connection.onLost()
    me.pass(3 * leaseMs)
    await me.open()
    const heard = bus.registerCommit('1').acknowledgedByAll()
    me.hear('event 1 me project:p')
    expect(await isDone(heard)).toBeFalse()
    me.pass(leaseMs + 100)
    expect(await isDone(heard)).toBeTrue()
  })
})

describe('who hears of a change', () => {
  beforeEach(() => me.open())

  test('has applied it before it says so, to the writer alone', async () => {
    me.hear('event 7 other project:p account:a')
    expect(me.told.at(-1)).toBe('event 7 project:p account:a')
    await settle()
    expect(me.acks()).toEqual([{ channel: channelOf('other'), payload: 'ack me 7' }])
  })

  test('answers nobody where nobody waits, and not itself', async () => {
    me.hear('event 7 - project:p', 'event 8 me project:p')
    await settle()
    expect(me.acks()).toEqual([])
    expect(me.told).toEqual(['reset', 'event 7 project:p', 'event 8 project:p'])
  })

  test('answers all it hears at one moment in one message to each writer', async () => {
    for (let id = 1; id <= 300; id += 1) me.hear(`event ${id} ${id % 3 === 0 ? 'b' : 'a'} project:p`)
    await settle()
    expect(me.acks().map(({ channel }) => channel)).toEqual([channelOf('a'), channelOf('b')])
    expect(me.acks()[1]?.payload.split(' ')).toHaveLength(2 + 100)
    me.hear('event 301 a project:p')
    await settle()
    expect(me.acks().at(-1)?.payload).toBe('ack me 301')
  })

  test('answers no more in one message than a notification takes', async () => {
    const ids = Array.from({ length: 3_000 }, (_, at) => String(1_000_000_000 + at))
    for (const id of ids) me.hear(`event ${id} a project:p`)
    await settle()
    expect(me.acks().flatMap(({ payload }) => payload.split(' ').slice(2))).toEqual(ids)
    for (const { payload } of me.acks()) expect(payload.length).toBeLessThan(8_000)
  })

  test('passes on what the outer cache has confirmed', () => {
    me.hear('confirmed 0123abcd 7 8')
    expect(me.told.at(-1)).toBe('confirmed 0123abcd 7 8')
  })

  test('passes on messages of other kinds to who asked for them, in their place among the changes', async () => {
    const { bus, hear, told, open } = setUp()
    bus.on('job', () => void told.push('job'))
    bus.on('cancelled', ({ generationId }) => void told.push(`cancelled ${generationId}`))
    await open()
    told.length = 0
    hear('cancelled a', 'event 1 other project:1', 'job', 'jobs', 'cancelled')
    expect(told).toEqual(['cancelled a', 'event 1 project:1', 'job'])
    expect(() => bus.on('job', () => {})).toThrow()
    expect(() => bus.on('event', () => {})).toThrow()
  })

  test('goes on after words it does not know', () => {
    me.hear('', 'hello', 'constructor x', '__proto__ x', 'event 7 other project:p')
    expect(me.told.at(-1)).toBe('event 7 project:p')
  })
})

describe('a change of more names than a notification takes', () => {
  beforeEach(() => me.open())

  test('is fetched, and what comes after it waits; it is answered when it was applied', async () => {
    me.hear('event 7 other *', 'event 8 other project:q', 'confirmed x 7')
    await settle()
    expect(me.told).toEqual(['reset'])
    expect(me.acks()).toEqual([])
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p', 'project:r'] })
    await settle()
    expect(me.told).toEqual(['reset', 'event 7 project:p project:r', 'event 8 project:q', 'confirmed x 7'])
    expect(me.acks().map(({ payload }) => payload)).toEqual(['ack me 7 8'])
  })

  test('may wait behind another', async () => {
    me.hear('event 7 other *', 'event 8 other *', 'event 9 other project:q')
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.told).toEqual(['reset', 'event 7 project:p'])
    me.hear('event 10 other project:s')
    me.eventReads[1]?.resolve({ id: '8', keys: ['project:r'] })
    await settle()
    expect(me.told.slice(2)).toEqual(['event 8 project:r', 'event 9 project:q', 'event 10 project:s'])
  })

  test('touched everything where its row is gone or cannot be read', async () => {
    me.hear('event 7 other *')
    me.eventReads[0]?.resolve(undefined)
    await settle()
    me.hear('event 8 other *')
    me.eventReads[1]?.reject(new Error('cut off'))
    await settle()
    expect(me.told.slice(1)).toEqual(['event 7 everything', 'event 8 everything'])
    expect(me.acks()).toHaveLength(2)
  })

  test('of one’s own is waited for until it was applied here', async () => {
    await openForLong()
    const heard = bus.registerCommit('7').acknowledgedByAll()
    me.hear('event 7 me *')
    expect(await isDone(heard)).toBeFalse()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    expect(await isDone(heard)).toBeTrue()
  })

  test('is not answered when the connection was lost meanwhile, nor is what waited behind it applied', async () => {
    me.hear('event 7 other *', 'event 8 other project:q', me.beats()[0] as string)
    bus.connection.onLost()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.told).toEqual(['reset'])
    await me.open({ id: '7', keys: ['project:p'] })
    me.hear('event 9 other project:r')
    await settle()
    expect(me.told.slice(1)).toEqual(['reset 7', 'event 9 project:r'])
    expect(me.acks().map(({ payload }) => payload)).toEqual(['ack me 9'])
    expect(me.isLeased()).toBeFalse()
  })
})

describe('a connection', () => {
  test('that is new begins with what stands, before anything that came meanwhile', async () => {
    bus.connection.onOpen()
    me.hear('event 7 other project:p', 'confirmed x 6')
    await settle()
    expect(me.told).toEqual([])
    me.standingReads[0]?.resolve([{ id: '6', keys: ['project:o'] }])
    await settle()
    expect(me.told).toEqual(['reset 6', 'event 7 project:p', 'confirmed x 6'])
  })

  test('on which what stands cannot be read is given up', async () => {
    bus.connection.onOpen()
    me.standingReads[0]?.reject(new Error('cut off'))
    await settle()
    expect(me.line.restarts).toBe(1)
    expect(me.told).toEqual([])
    expect(me.isLeased()).toBeFalse()
  })

  test('that was lost while what stands was read leaves nothing of it to the next', async () => {
    bus.connection.onOpen()
    me.hear('event 7 other project:p')
    bus.connection.onLost()
    bus.connection.onOpen()
    me.standingReads[0]?.resolve([])
    await settle()
    expect(me.told).toEqual([])
    me.standingReads[1]?.resolve([{ id: '7', keys: ['project:p'] }])
    await settle()
    expect(me.told).toEqual(['reset 7'])
  })

  test('that is silent is given up', async () => {
    await me.open()
    for (let passed = 0; passed <= 3_000; passed += heartbeatMs) {
      expect(me.line.restarts).toBe(0)
      me.pass(heartbeatMs)
      tick()
    }
    expect(me.line.restarts).toBe(1)
    await me.open()
    tick()
    expect(me.line.restarts).toBe(1)
  })

  test('that is silent from the start is given up too', async () => {
    bus.connection.onOpen()
    await settle()
    me.pass(3_001)
    tick()
    expect(me.line.restarts).toBe(1)
  })

  test('on which a fetch hangs is given up', async () => {
    await me.open()
    me.hear('event 7 other *')
    for (let passed = 0; passed <= 3_000; passed += heartbeatMs) {
      me.pass(heartbeatMs)
      tick()
      me.hear(me.beats().at(-1) as string)
    }
    expect(me.line.restarts).toBe(1)
  })
})

test('every duration of a bus derives from its lease and heartbeat', async () => {
  const { bus, clock, hear, pass, beats, open, line, isLeased } = setUp({ timing: { leaseMs: 100, heartbeatMs: 25 } })
  await open()
  expect(ticking.mock.calls.at(-1)?.[1]).toBe(25)
  const sentMs = clock.monotonic()
  hear(beats()[0] as string, 'beat frozen 1.1')
  expect(bus.lease.untilMs).toBe(sentMs + 100)
  pass(103)
  expect(isLeased()).toBeFalse()
  const acknowledged = bus.registerCommit('1').acknowledgedByAll()
  hear('event 1 me project:p')
  pass(101)
  expect(await isDone(acknowledged)).toBeFalse()
  pass(1)
  expect(await isDone(acknowledged)).toBeTrue()
  expect(bus.members()).toEqual([])
  pass(95)
  tick()
  expect(line.restarts).toBe(0)
  pass(1)
  tick()
  expect(line.restarts).toBe(1)
})

describe('a closed bus', () => {
  test('says goodbye and has no lease, although a heartbeat was under way', async () => {
    await me.open()
    me.hear(me.beats()[0] as string)
    tick()
    await bus.close()
    expect(me.sent.at(-1)).toEqual({ channel: commonChannel, payload: 'bye me' })
    expect(me.isLeased()).toBeFalse()
    me.hear(...me.beats())
    expect(me.isLeased()).toBeFalse()
  })

  test('stays closed when its line is made anew', async () => {
    await me.open()
    await bus.close()
    const said = me.sent.length
    bus.connection.onLost()
    bus.connection.onOpen()
    await settle()
    expect(me.sent).toHaveLength(said)
  })

  test('stays closed when it was closed while its line was being made', async () => {
    bus.connection.onOpen()
    await bus.close()
    me.standingReads[0]?.resolve([])
    await settle()
    expect(me.beats()).toEqual([])
    expect(me.told).toEqual([])
  })

  test('still hears, for the changes that are being waited for', async () => {
    await openForLong()
    me.hear('beat a 1.1')
    const heard = bus.registerCommit('1').acknowledgedByAll()
    await bus.close()
    me.hear('event 1 me project:p', 'ack a 1')
    expect(await isDone(heard)).toBeTrue()
  })
})
