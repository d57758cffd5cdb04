import { afterEach, beforeEach, describe, expect, type Mock, spyOn, test } from 'bun:test'
import { type Bus, createBus } from '../../src/access/invalidation/bus.ts'
import type { InvalidationEvent } from '../../src/access/invalidation/model.ts'
import { defaultLeaseTiming, type LeaseTiming } from '../../src/access/invalidation/timing.ts'
import { channelOf, commonChannel } from '../../src/access/invalidation/topics.ts'
import { manualClock } from '../../src/kit/clock.ts'

const { leaseMs, heartbeatMs } = defaultLeaseTiming

/** A bus whose connection, clock and timers are driven by the test. */
const setUp = (options: { acknowledge?: boolean; timing?: LeaseTiming } = {}) => {
  const clock = manualClock()
  const sent: { channel: string; payload: string }[] = []
  const applied: string[] = []
  const eventReads: PromiseWithResolvers<InvalidationEvent | undefined>[] = []
  const pendingReads: PromiseWithResolvers<readonly InvalidationEvent[]>[] = []
  const timers = new Set<{ dueMs: number; call: () => void }>()
  const connectionState = { restarts: 0 }
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
        pendingReads.push(read)
        return read.promise
      },
      restart: () => {
        connectionState.restarts += 1
        bus.connection.onLost()
      },
    },
    handlers: {
      onEvent: ({ id, keys }) => void applied.push(`event ${id} ${typeof keys === 'string' ? keys : keys.join(' ')}`),
      onReset: (pendingInvalidations) =>
        void applied.push(['reset', ...pendingInvalidations.map(({ id }) => id)].join(' ')),
      onConfirmed: (ids, incarnation) => void applied.push(`confirmed ${incarnation} ${ids.join(' ')}`),
    },
  })
  const heartbeats = () => sent.filter(({ payload }) => payload.startsWith('beat ')).map(({ payload }) => payload)
  return {
    bus,
    clock,
    sent,
    applied,
    connectionState,
    eventReads,
    pendingReads,
    heartbeats,
    timersLeft: () => timers.size,
    receive: (...payloads: string[]) => {
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
    /** The connection opens and the pending events have been read. */
    open: async (...pendingInvalidations: InvalidationEvent[]) => {
      bus.connection.onOpen()
      pendingReads.at(-1)?.resolve(pendingInvalidations)
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
/** Runs the interval of the bus, which sends a heartbeat. */
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

/** Connected for two leases, so that every member is known. */
const openForTwoLeases = async () => {
  await me.open()
  for (let passed = 0; passed <= 2 * leaseMs; passed += heartbeatMs) {
    me.pass(heartbeatMs)
    me.receive(me.heartbeats().at(-1) as string)
    tick()
  }
}

describe('the lease of an instance', () => {
  test('is counted from when the heartbeat was sent, not from when it came back', async () => {
    expect(me.isLeased()).toBeFalse()
    await me.open()
    const sentMs = me.clock.monotonic()
    expect(me.sent).toEqual([{ channel: commonChannel, payload: me.heartbeats()[0] as string }])
    expect(me.isLeased()).toBeFalse()
    me.pass(300)
    me.receive(me.heartbeats()[0] as string)
    expect(bus.lease.untilMs).toBe(sentMs + leaseMs)
    me.pass(leaseMs - 301)
    expect(me.isLeased()).toBeTrue()
    me.pass(1)
    expect(me.isLeased()).toBeFalse()
  })

  test('is not renewed by the heartbeat of another instance, nor by one that was never sent', async () => {
    await me.open()
    const [own = ''] = me.heartbeats()
    me.receive(own.replace('me', 'other'), 'beat me 1.99', 'beat me', 'beat', `ack ${own.slice(5)}`)
    expect(me.isLeased()).toBeFalse()
  })

  test('is not renewed by a heartbeat of an earlier connection', async () => {
    await me.open()
    const [early = ''] = me.heartbeats()
    bus.connection.onLost()
    me.receive(early)
    await me.open()
    me.receive(early)
    expect(me.isLeased()).toBeFalse()
    me.receive(me.heartbeats()[1] as string)
    expect(me.isLeased()).toBeTrue()
  })

  test('is over when its heartbeat comes back a lease late', async () => {
    await me.open()
    me.pass(leaseMs)
    me.receive(me.heartbeats()[0] as string)
    expect(me.isLeased()).toBeFalse()
  })

  test('is not shortened when an earlier heartbeat arrives after a later one', async () => {
    await me.open()
    me.pass(heartbeatMs)
    tick()
    const [first = '', second = ''] = me.heartbeats()
    me.receive(second, first)
    expect(bus.lease.untilMs).toBe(heartbeatMs + leaseMs)
  })

  test('begins again after a freeze only with a heartbeat sent after the freeze', async () => {
    await openForTwoLeases()
    tick()
    me.pass(5_000)
    const before = me.heartbeats().slice(-2)
    me.receive(before[0] as string, 'event 7 other project:p', before[1] as string)
    expect(me.applied.at(-1)).toBe('event 7 project:p')
    expect(me.isLeased()).toBeFalse()
    tick()
    expect(me.isLeased()).toBeFalse()
    me.receive(me.heartbeats().at(-1) as string)
    expect(bus.lease.untilMs).toBe(me.clock.monotonic() + leaseMs)
  })

  test('is not renewed while the keys of an event before the heartbeat are being read', async () => {
    await me.open()
    me.receive('event 7 other *', me.heartbeats()[0] as string)
    expect(me.isLeased()).toBeFalse()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.applied).toEqual(['reset', 'event 7 project:p'])
    expect(me.isLeased()).toBeTrue()
  })
})

describe('a writer', () => {
  beforeEach(openForTwoLeases)

  test('without other members waits only for its own event', async () => {
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('event 1 me project:p')
    expect(await isDone(acknowledged)).toBeTrue()
    expect(me.timersLeft()).toBe(0)
  })

  test('waits for exactly the members whose heartbeats arrived within two leases before its own event', async () => {
    me.receive('beat gone 1.1')
    me.pass(1)
    me.receive('beat quiet 1.1')
    me.pass(2 * leaseMs)
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('beat lively 1.1', 'event 1 me project:p', 'beat late 1.1')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('ack late 1', 'ack lively 1')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('ack quiet 2')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('ack quiet 2 1 3')
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('stops waiting for a member that leaves', async () => {
    me.receive('beat a 1.1', 'beat b 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('event 1 me project:p', 'ack a 1', 'bye c')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('bye b')
    expect(await isDone(acknowledged)).toBeTrue()
    expect(bus.members()).toEqual(['a'])
  })

  test('waits a lease from the commit for a silent member, and no less', async () => {
    me.receive('beat frozen 1.1')
    const commitWait = bus.registerCommit('1')
    me.receive('event 1 me project:p')
    me.pass(500)
    const acknowledged = commitWait.acknowledgedByAll()
    me.pass(leaseMs - 1)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(100)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('that never receives its own event waits a lease, even when every member acknowledged', async () => {
    me.receive('beat a 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('ack a 1')
    me.pass(leaseMs)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(100)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('counts an acknowledgement that arrives before its own event', async () => {
    me.receive('beat a 1.1', 'beat b 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('ack a 1', 'event 1 me project:p')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('ack b 1')
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('counts an acknowledgement that arrives before the commit is confirmed', async () => {
    me.receive('beat a 1.1')
    const commitWait = bus.registerCommit('1')
    me.receive('event 1 me project:p', 'ack a 1')
    expect(await isDone(commitWait.acknowledgedByAll())).toBeTrue()
  })

  test('of two changes waits for the acknowledgements of each separately', async () => {
    me.receive('beat a 1.1', 'beat b 1.1')
    const [one, two] = [bus.registerCommit('1').acknowledgedByAll(), bus.registerCommit('2').acknowledgedByAll()]
    me.receive('event 1 me project:p', 'event 2 me project:p', 'ack a 1 2', 'ack b 2')
    expect([await isDone(one), await isDone(two)]).toEqual([false, true])
  })

  test('that abandoned its change ignores late acknowledgements and still applies the event', async () => {
    bus.registerCommit('1').abandon()
    me.receive('ack a 1', 'event 1 me project:p')
    expect(me.applied.at(-1)).toBe('event 1 project:p')
  })

  test('does not wait when acknowledgements are off', async () => {
    me = setUp({ acknowledge: false })
    await me.open()
    me.receive('beat a 1.1')
    expect(await isDone(me.bus.registerCommit('1').acknowledgedByAll())).toBeTrue()
  })
})

describe('a writer that has been listening for less than a lease', () => {
  test('waits for unknown members, because one of them may hold an older lease', async () => {
    await me.open()
    me.pass(400)
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('beat a 1.1', 'event 1 me project:p', 'ack a 1')
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(leaseMs - 400)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(100)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('waits for unknown members after a lost connection too', async () => {
    await openForTwoLeases()
    bus.connection.onLost()
    me.pass(3 * leaseMs)
    await me.open()
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('event 1 me project:p')
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(leaseMs + 100)
    expect(await isDone(acknowledged)).toBeTrue()
  })
})

describe('an instance that receives an event', () => {
  beforeEach(() => me.open())

  test('applies it before it acknowledges, and acknowledges only to the writer', async () => {
    me.receive('event 7 other project:p account:a')
    expect(me.applied.at(-1)).toBe('event 7 project:p account:a')
    await settle()
    expect(me.acks()).toEqual([{ channel: channelOf('other'), payload: 'ack me 7' }])
  })

  test('acknowledges neither an event without a writer nor its own', async () => {
    me.receive('event 7 - project:p', 'event 8 me project:p')
    await settle()
    expect(me.acks()).toEqual([])
    expect(me.applied).toEqual(['reset', 'event 7 project:p', 'event 8 project:p'])
  })

  test('acknowledges all events of one turn in one message to each writer', async () => {
    for (let id = 1; id <= 300; id += 1) me.receive(`event ${id} ${id % 3 === 0 ? 'b' : 'a'} project:p`)
    await settle()
    expect(me.acks().map(({ channel }) => channel)).toEqual([channelOf('a'), channelOf('b')])
    expect(me.acks()[1]?.payload.split(' ')).toHaveLength(2 + 100)
    me.receive('event 301 a project:p')
    await settle()
    expect(me.acks().at(-1)?.payload).toBe('ack me 301')
  })

  test('splits acknowledgements so that none exceeds the size of a notification', async () => {
    const ids = Array.from({ length: 3_000 }, (_, at) => String(1_000_000_000 + at))
    for (const id of ids) me.receive(`event ${id} a project:p`)
    await settle()
    expect(me.acks().flatMap(({ payload }) => payload.split(' ').slice(2))).toEqual(ids)
    for (const { payload } of me.acks()) expect(payload.length).toBeLessThan(8_000)
  })

  test('passes on the events that Redis has confirmed', () => {
    me.receive('confirmed 0123abcd 7 8')
    expect(me.applied.at(-1)).toBe('confirmed 0123abcd 7 8')
  })

  test('delivers messages of other topics to their listeners, in order among the events', async () => {
    const { bus, receive, applied, open } = setUp()
    bus.on('job', () => void applied.push('job'))
    bus.on('cancelled', ({ generationId }) => void applied.push(`cancelled ${generationId}`))
    await open()
    applied.length = 0
    receive('cancelled a', 'event 1 other project:1', 'job', 'jobs', 'cancelled')
    expect(applied).toEqual(['cancelled a', 'event 1 project:1', 'job'])
    expect(() => bus.on('job', () => {})).toThrow()
    expect(() => bus.on('event', () => {})).toThrow()
  })

  test('ignores unknown topics and goes on', () => {
    me.receive('', 'hello', 'constructor x', '__proto__ x', 'event 7 other project:p')
    expect(me.applied.at(-1)).toBe('event 7 project:p')
  })
})

describe('an event whose keys do not fit into a notification', () => {
  beforeEach(() => me.open())

  test('is read from its row while later messages wait, and acknowledged once applied', async () => {
    me.receive('event 7 other *', 'event 8 other project:q', 'confirmed x 7')
    await settle()
    expect(me.applied).toEqual(['reset'])
    expect(me.acks()).toEqual([])
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p', 'project:r'] })
    await settle()
    expect(me.applied).toEqual(['reset', 'event 7 project:p project:r', 'event 8 project:q', 'confirmed x 7'])
    expect(me.acks().map(({ payload }) => payload)).toEqual(['ack me 7 8'])
  })

  test('waits for another such event before it', async () => {
    me.receive('event 7 other *', 'event 8 other *', 'event 9 other project:q')
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.applied).toEqual(['reset', 'event 7 project:p'])
    me.receive('event 10 other project:s')
    me.eventReads[1]?.resolve({ id: '8', keys: ['project:r'] })
    await settle()
    expect(me.applied.slice(2)).toEqual(['event 8 project:r', 'event 9 project:q', 'event 10 project:s'])
  })

  test('invalidates everything when its row is gone or cannot be read', async () => {
    me.receive('event 7 other *')
    me.eventReads[0]?.resolve(undefined)
    await settle()
    me.receive('event 8 other *')
    me.eventReads[1]?.reject(new Error('cut off'))
    await settle()
    expect(me.applied.slice(1)).toEqual(['event 7 everything', 'event 8 everything'])
    expect(me.acks()).toHaveLength(2)
  })

  test('of our own completes the wait only once it was applied here', async () => {
    await openForTwoLeases()
    const acknowledged = bus.registerCommit('7').acknowledgedByAll()
    me.receive('event 7 me *')
    expect(await isDone(acknowledged)).toBeFalse()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('is not acknowledged after a lost connection, and the messages behind it are dropped', async () => {
    me.receive('event 7 other *', 'event 8 other project:q', me.heartbeats()[0] as string)
    bus.connection.onLost()
    me.eventReads[0]?.resolve({ id: '7', keys: ['project:p'] })
    await settle()
    expect(me.applied).toEqual(['reset'])
    await me.open({ id: '7', keys: ['project:p'] })
    me.receive('event 9 other project:r')
    await settle()
    expect(me.applied.slice(1)).toEqual(['reset 7', 'event 9 project:r'])
    expect(me.acks().map(({ payload }) => payload)).toEqual(['ack me 9'])
    expect(me.isLeased()).toBeFalse()
  })
})

describe('a connection of the bus', () => {
  test('applies the pending events before any message that arrived meanwhile', async () => {
    bus.connection.onOpen()
    me.receive('event 7 other project:p', 'confirmed x 6')
    await settle()
    expect(me.applied).toEqual([])
    me.pendingReads[0]?.resolve([{ id: '6', keys: ['project:o'] }])
    await settle()
    expect(me.applied).toEqual(['reset 6', 'event 7 project:p', 'confirmed x 6'])
  })

  test('is replaced when the pending events cannot be read', async () => {
    bus.connection.onOpen()
    me.pendingReads[0]?.reject(new Error('cut off'))
    await settle()
    expect(me.connectionState.restarts).toBe(1)
    expect(me.applied).toEqual([])
    expect(me.isLeased()).toBeFalse()
  })

  test('lost while the pending events were read passes nothing on to the next connection', async () => {
    bus.connection.onOpen()
    me.receive('event 7 other project:p')
    bus.connection.onLost()
    bus.connection.onOpen()
    me.pendingReads[0]?.resolve([])
    await settle()
    expect(me.applied).toEqual([])
    me.pendingReads[1]?.resolve([{ id: '7', keys: ['project:p'] }])
    await settle()
    expect(me.applied).toEqual(['reset 7'])
  })

  test('is replaced after three leases without a returned heartbeat', async () => {
    await me.open()
    for (let passed = 0; passed <= 3_000; passed += heartbeatMs) {
      expect(me.connectionState.restarts).toBe(0)
      me.pass(heartbeatMs)
      tick()
    }
    expect(me.connectionState.restarts).toBe(1)
    await me.open()
    tick()
    expect(me.connectionState.restarts).toBe(1)
  })

  test('is replaced when no heartbeat returned since it was opened', async () => {
    bus.connection.onOpen()
    await settle()
    me.pass(3_001)
    tick()
    expect(me.connectionState.restarts).toBe(1)
  })

  test('is replaced when the read of an event hangs', async () => {
    await me.open()
    me.receive('event 7 other *')
    for (let passed = 0; passed <= 3_000; passed += heartbeatMs) {
      me.pass(heartbeatMs)
      tick()
      me.receive(me.heartbeats().at(-1) as string)
    }
    expect(me.connectionState.restarts).toBe(1)
  })
})

test('a bus with a shorter lease derives its waits, membership and silence from it', async () => {
  const { bus, clock, receive, pass, heartbeats, open, connectionState, isLeased } = setUp({
    timing: { leaseMs: 100, heartbeatMs: 25 },
  })
  await open()
  expect(ticking.mock.calls.at(-1)?.[1]).toBe(25)
  const sentMs = clock.monotonic()
  receive(heartbeats()[0] as string, 'beat frozen 1.1')
  expect(bus.lease.untilMs).toBe(sentMs + 100)
  pass(103)
  expect(isLeased()).toBeFalse()
  const acknowledged = bus.registerCommit('1').acknowledgedByAll()
  receive('event 1 me project:p')
  pass(101)
  expect(await isDone(acknowledged)).toBeFalse()
  pass(1)
  expect(await isDone(acknowledged)).toBeTrue()
  expect(bus.members()).toEqual([])
  pass(95)
  tick()
  expect(connectionState.restarts).toBe(0)
  pass(1)
  tick()
  expect(connectionState.restarts).toBe(1)
})

describe('a closed bus', () => {
  test('leaves and has no lease, even when a heartbeat under way comes back', async () => {
    await me.open()
    me.receive(me.heartbeats()[0] as string)
    tick()
    await bus.close()
    expect(me.sent.at(-1)).toEqual({ channel: commonChannel, payload: 'bye me' })
    expect(me.isLeased()).toBeFalse()
    me.receive(...me.heartbeats())
    expect(me.isLeased()).toBeFalse()
  })

  test('stays closed when its connection opens again', async () => {
    await me.open()
    await bus.close()
    const sentBefore = me.sent.length
    bus.connection.onLost()
    bus.connection.onOpen()
    await settle()
    expect(me.sent).toHaveLength(sentBefore)
  })

  test('stays closed when it was closed while its connection opened', async () => {
    bus.connection.onOpen()
    await bus.close()
    me.pendingReads[0]?.resolve([])
    await settle()
    expect(me.heartbeats()).toEqual([])
    expect(me.applied).toEqual([])
  })

  test('still receives acknowledgements for changes that wait', async () => {
    await openForTwoLeases()
    me.receive('beat a 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    await bus.close()
    me.receive('event 1 me project:p', 'ack a 1')
    expect(await isDone(acknowledged)).toBeTrue()
  })
})
