import { afterEach, beforeEach, describe, expect, type Mock, spyOn, test } from 'bun:test'
import { createBus, type LocalBus } from '../../src/access/invalidation/bus.ts'
import type { InvalidationEvent } from '../../src/access/invalidation/model.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from '../../src/access/invalidation/timing.ts'
import { channelOf, commonChannel, encodeMessage } from '../../src/access/invalidation/topics.ts'
import type { BusProblem } from '../../src/access/invalidation/tracking.ts'
import { type Clock, manualClock } from '../../src/kit/clock.ts'

const { leaseMs, heartbeatMs } = defaultLeaseTiming
const { waitMs } = deriveTiming(defaultLeaseTiming)

/** A bus whose connection, clock and timers are driven by the test. */
const setUp = (options: { acknowledge?: boolean; timing?: LeaseTiming; leaseClock?: Clock } = {}) => {
  const clock = manualClock()
  const sent: { channel: string; payload: string }[] = []
  const applied: string[] = []
  const eventReads: PromiseWithResolvers<InvalidationEvent | undefined>[] = []
  const pendingReads: PromiseWithResolvers<readonly InvalidationEvent[]>[] = []
  const timers = new Set<{ dueMs: number; call: () => void }>()
  const connectionState = { restarts: 0 }
  /** What a statement sees: each event received here was committed there. */
  const database = { identity: 'db', position: 0 }
  const problems: (BusProblem | undefined)[] = []
  /** Writes events and heartbeats of others as Postgres does. Positions count up, and the rest is as given. */
  const encode = (payload: string): string => {
    const [word, ...words] = payload.split(' ')
    if (word === 'event' && !payload.includes(' * 2 ')) {
      database.position += 1
      const [id, writer, ...keys] = words
      return ['event', id, writer, '* 2', database.position, ...keys].join(' ')
    }
    if (word === 'beat' && words.length === 2) return `${payload} 2 ${database.identity} ${database.position}`
    return payload
  }
  const bus = createBus({
    instance: 'me',
    clock,
    onProblem: (problem) => void problems.push(problem),
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
      sendHeartbeat: async (heartbeatId) => {
        const payload = encodeMessage('heartbeat', { instance: 'me', heartbeatId, seen: { ...database } })
        sent.push({ channel: commonChannel, payload })
      },
      readSnapshot: async () => {
        const read = Promise.withResolvers<readonly InvalidationEvent[]>()
        pendingReads.push(read)
        const pendingInvalidations = await read.promise
        return { ...database, pendingInvalidations }
      },
      restart: () => {
        connectionState.restarts += 1
        bus.connection.onLost()
      },
    },
    handlers: {
      onEvent: ({ id, keys }) => void applied.push(`event ${id} ${typeof keys === 'string' ? keys : keys.join(' ')}`),
      beforeLease: async ({ isOther }) => {
        if (isOther) applied.push('other database')
      },
      onReset: ({ pendingInvalidations, isContinued }) => {
        applied.push(['reset', ...pendingInvalidations.map(({ id }) => id)].join(' '))
        if (!isContinued) applied.push('not continued')
      },
      onGap: () => void applied.push('gap'),
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
    database,
    problems,
    timersLeft: () => timers.size,
    receive: (...payloads: string[]) => {
      for (const payload of payloads) bus.connection.onMessage(encode(payload))
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
      bus.connection.onOpen(database.identity)
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
let bus: LocalBus

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

  test('waits 1.25 leases from the commit for a silent member, and no less', async () => {
    me.receive('beat frozen 1.1')
    const commitWait = bus.registerCommit('1')
    me.receive('event 1 me project:p')
    me.pass(500)
    const acknowledged = commitWait.acknowledgedByAll()
    me.pass(waitMs - 1)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(1)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('that never receives its own event waits a lease, even when every member acknowledged', async () => {
    me.receive('beat a 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('ack a 1')
    me.pass(waitMs - 1)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(1)
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
    me.receive(me.heartbeats()[0] as string)
    me.pass(400)
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('beat a 1.1', 'event 1 me project:p', 'ack a 1')
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(waitMs - 401)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(1)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('waits for unknown members after a lost connection too', async () => {
    await openForTwoLeases()
    bus.connection.onLost()
    me.pass(3 * leaseMs)
    await me.open()
    me.receive(me.heartbeats().at(-1) as string)
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('event 1 me project:p')
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(waitMs)
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
    bus.connection.onOpen('db')
    me.receive('event 7 other project:p', 'confirmed x 6')
    await settle()
    expect(me.applied).toEqual([])
    me.pendingReads[0]?.resolve([{ id: '6', keys: ['project:o'] }])
    await settle()
    expect(me.applied).toEqual(['reset 6', 'event 7 project:p', 'confirmed x 6'])
  })

  test('is replaced when the pending events cannot be read', async () => {
    bus.connection.onOpen('db')
    me.pendingReads[0]?.reject(new Error('cut off'))
    await settle()
    expect(me.connectionState.restarts).toBe(1)
    expect(me.applied).toEqual([])
    expect(me.isLeased()).toBeFalse()
  })

  test('lost while the pending events were read passes nothing on to the next connection', async () => {
    bus.connection.onOpen('db')
    me.receive('event 7 other project:p')
    bus.connection.onLost()
    bus.connection.onOpen('db')
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
    bus.connection.onOpen('db')
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
  pass(124)
  expect(await isDone(acknowledged)).toBeFalse()
  pass(1)
  expect(await isDone(acknowledged)).toBeTrue()
  expect(bus.members()).toEqual([])
  pass(72)
  tick()
  expect(connectionState.restarts).toBe(0)
  pass(1)
  tick()
  expect(connectionState.restarts).toBe(1)
})

describe('an instance', () => {
  const renew = () => {
    tick()
    me.receive(me.heartbeats().at(-1) as string)
  }

  test('that misses an event has no lease from the next event on, clears memory and replaces its connections', async () => {
    await me.open()
    me.receive('event 1 other project:p')
    renew()
    expect(me.isLeased()).toBeTrue()
    me.database.position += 1
    me.receive('event 3 other project:q')
    expect(me.isLeased()).toBeFalse()
    expect(me.applied).toEqual(['reset', 'event 1 project:p', 'gap'])
    expect([me.connectionState.restarts, bus.counts.gaps, bus.noLeaseReason()]).toEqual([1, 1, 'gap'])
    await settle()
    expect(me.acks().map(({ payload }) => payload)).toEqual(['ack me 1'])
  })

  test('that misses the newest event has no lease from its own next heartbeat on', async () => {
    await me.open()
    renew()
    me.database.position += 1
    expect(me.isLeased()).toBeTrue()
    renew()
    expect(me.isLeased()).toBeFalse()
    expect([me.applied.at(-1), me.connectionState.restarts]).toEqual(['gap', 1])
  })

  test('that lost an event holds a lease again once new connections are open, with an empty memory', async () => {
    await me.open()
    me.database.position += 1
    renew()
    await me.open({ id: '1', keys: ['project:p'] })
    expect(bus.noLeaseReason()).toBe('gap')
    renew()
    expect([bus.noLeaseReason(), me.applied]).toEqual([undefined, ['reset', 'gap', 'reset 1']])
    expect(me.problems).toEqual(['gap', undefined])
  })

  test('takes a lower position for an older state of the database: no lease, and the reset says so', async () => {
    me.database.position = 7
    await me.open()
    renew()
    me.database.position = 3
    me.receive('event 4 other project:p')
    expect([me.isLeased(), me.applied.at(-1)]).toEqual([false, 'gap'])
    await me.open()
    expect(me.applied.slice(-2)).toEqual(['reset', 'not continued'])
  })

  test('whose heartbeat saw a lower position than was known when it was sent has no lease', async () => {
    me.database.position = 7
    await me.open()
    me.database.position = 6
    renew()
    expect([me.isLeased(), me.applied.at(-1)]).toEqual([false, 'gap'])
  })

  test('accepts events that were committed before its snapshot and arrive after it', async () => {
    me.database.position = 5
    await me.open()
    me.receive('event 4 other * 2 4 project:p', 'event 5 other * 2 5 project:q', 'event 6 other project:r')
    renew()
    expect(me.isLeased()).toBeTrue()
    expect(me.applied).toEqual(['reset', 'event 4 project:p', 'event 5 project:q', 'event 6 project:r'])
  })

  test('that listens to another database than the one of its changes has no lease and applies no event', async () => {
    bus.connection.onOpen('staging')
    me.pendingReads[0]?.resolve([])
    await settle()
    me.receive('event 1 other project:p')
    tick()
    expect([bus.noLeaseReason(), me.heartbeats(), me.applied]).toEqual(['other_database', [], []])
    expect(me.problems).toEqual(['other_database'])
    expect(bus.databaseIdentity()).toBeUndefined()
    me.pass(3 * leaseMs + 1)
    tick()
    expect(me.connectionState.restarts).toBe(1)
    expect(me.problems).toEqual(['other_database'])
  })

  test('whose heartbeat is notified by another database has no lease', async () => {
    await me.open()
    renew()
    me.database.identity = 'promoted'
    renew()
    expect([me.isLeased(), me.connectionState.restarts, bus.noLeaseReason()]).toEqual([false, 1, 'other_database'])
    await me.open()
    expect(me.applied).toEqual(['reset', 'gap', 'other database', 'reset', 'not continued'])
    expect(bus.databaseIdentity()).toBe('promoted')
  })

  test('has no lease while the connections to the earlier database are retired', async () => {
    await me.open()
    renew()
    bus.connection.onLost()
    expect(me.isLeased()).toBeTrue()
    me.database.identity = 'promoted'
    await me.open()
    expect(me.isLeased()).toBeFalse()
  })

  test('names the database of its changes for two leases after its connections were lost', async () => {
    expect(bus.databaseIdentity()).toBeUndefined()
    await me.open()
    bus.connection.onLost()
    me.pass(2 * leaseMs - 1)
    expect(bus.databaseIdentity()).toBe('db')
    me.pass(1)
    expect(bus.databaseIdentity()).toBeUndefined()
  })

  test('names a pooler when no notification arrived a lease after its heartbeat was committed', async () => {
    await me.open()
    expect(bus.noLeaseReason()).toBe('connecting')
    me.pass(leaseMs)
    tick()
    expect(me.problems).toEqual([])
    me.pass(1)
    tick()
    me.pass(heartbeatMs)
    tick()
    expect([me.problems, bus.noLeaseReason()]).toEqual([['pooler'], 'pooler'])
  })

  test('that receives an event of another version reads its keys from the row and has no lease', async () => {
    await me.open()
    renew()
    bus.connection.onMessage('event 9 other * 3 1-1 x')
    expect([me.isLeased(), bus.noLeaseReason()]).toEqual([false, 'other_version'])
    me.eventReads[0]?.resolve({ id: '9', keys: ['project:p'] })
    await settle()
    expect(me.applied.at(-1)).toBe('event 9 project:p')
    renew()
    expect(me.isLeased()).toBeFalse()
  })

  test('whose own heartbeat is of another version has no lease', async () => {
    await me.open()
    const [own = ''] = me.heartbeats()
    bus.connection.onMessage(own.replace(' 2 ', ' 3 '))
    expect([me.isLeased(), bus.noLeaseReason()]).toEqual([false, 'other_version'])
  })

  test('counts its lease on the clock of leases, and its waits on the monotonic one', async () => {
    const clock = manualClock()
    const wall = { aheadMs: 0 }
    const leaseClock = { now: clock.now, monotonic: () => clock.monotonic() + wall.aheadMs }
    me = setUp({ leaseClock })
    bus = me.bus
    await me.open()
    renew()
    expect(bus.noLeaseReason()).toBeUndefined()
    wall.aheadMs = 30_000
    expect(bus.noLeaseReason()).toBe('late')
    expect(bus.members()).toEqual([])
    renew()
    expect(bus.noLeaseReason()).toBeUndefined()
    expect(me.connectionState.restarts).toBe(0)
  })
})

test('an instance whose connection cannot be opened says so until it holds a lease', async () => {
  bus.connection.onUnreachable()
  bus.connection.onUnreachable()
  expect([bus.noLeaseReason(), me.problems]).toEqual(['unreachable', ['unreachable']])
  await me.open()
  me.receive(me.heartbeats()[0] as string)
  expect([bus.noLeaseReason(), me.problems]).toEqual([undefined, ['unreachable', undefined]])
})

describe('a member of another version', () => {
  beforeEach(openForTwoLeases)

  test('cannot acknowledge: the writer waits 1.25 leases', async () => {
    bus.connection.onMessage('beat old 1.1')
    me.receive('beat new 1.1')
    expect([bus.members(), bus.membersOfOtherVersion()]).toEqual([['old', 'new'], ['old']])
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('ack old 1', 'event 1 me project:p', 'ack new 1', 'ack old 1')
    me.pass(waitMs - 1)
    expect(await isDone(acknowledged)).toBeFalse()
    me.pass(1)
    expect(await isDone(acknowledged)).toBeTrue()
  })

  test('that leaves is waited for no longer', async () => {
    bus.connection.onMessage('beat old 1.1')
    const acknowledged = bus.registerCommit('1').acknowledgedByAll()
    me.receive('event 1 me project:p')
    expect(await isDone(acknowledged)).toBeFalse()
    me.receive('bye old')
    expect(await isDone(acknowledged)).toBeTrue()
  })
})

test('a writer whose heartbeats do not come back on its connection waits 1.25 leases, in spite of acknowledgements', async () => {
  await me.open()
  me.pass(2 * waitMs)
  const acknowledged = bus.registerCommit('1').acknowledgedByAll()
  me.receive('event 1 me project:p')
  me.pass(waitMs - 1)
  expect(await isDone(acknowledged)).toBeFalse()
  me.pass(1)
  expect(await isDone(acknowledged)).toBeTrue()
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
    bus.connection.onOpen('db')
    await settle()
    expect(me.sent).toHaveLength(sentBefore)
  })

  test('stays closed when it was closed while its connection opened', async () => {
    bus.connection.onOpen('db')
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
