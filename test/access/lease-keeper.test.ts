import { afterEach, beforeEach, describe, expect, type Mock, spyOn, test } from 'bun:test'
import type { BusRecord } from '../../src/access/invalidation/bus-records.ts'
import { createLeaseKeeper } from '../../src/access/invalidation/lease-keeper.ts'
import { defaultLeaseTiming, deriveTiming } from '../../src/access/invalidation/timing.ts'
import { encodeMessage } from '../../src/access/invalidation/topics.ts'
import { manualClock } from '../../src/kit/clock.ts'

const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

/** A keeper whose steps are noted in the order in which they happen. */
const setUp = ({ seen }: { seen?: { identity: string; position: number } } = {}) => {
  const clock = manualClock()
  const steps: string[] = []
  const resets: boolean[] = []
  const room = { records: Number.POSITIVE_INFINITY, isDrained: true }
  const database = { identity: 'db', position: 0 }
  const sent: string[] = []
  const prepared: { isOther: boolean }[] = []
  const connection = { restarts: 0 }
  const describeRecord = (record: BusRecord) =>
    record.type === 'message' ? (record.payload.split(' ')[0] ?? '') : record.type
  const keeper = createLeaseKeeper({
    instance: 'me',
    clock,
    leaseClock: clock,
    timing: deriveTiming(defaultLeaseTiming),
    seen,
    append: (record) => {
      if (room.records === 0) return false
      room.records -= 1
      if (record.type === 'reset') resets.push(record.isContinued)
      steps.push(describeRecord(record))
      return true
    },
    isDrained: () => room.isDrained,
    prepare: async (opening) => {
      prepared.push(opening)
      steps.push('prepare')
    },
    onLease: (untilMs) => void steps.push(untilMs > clock.monotonic() ? 'lease' : 'no lease'),
    onReason: () => {},
    onProblem: () => {},
    connection: {
      send: async (_channel, payload) => void steps.push(`send ${payload.split(' ')[0]}`),
      sendHeartbeat: async (heartbeatId) =>
        void sent.push(encodeMessage('heartbeat', { instance: 'me', heartbeatId, seen: { ...database } })),
      readEvent: async (id) => ({ id, keys: [`account:${id}`] as never }),
      readSnapshot: async () => ({ ...database, pendingInvalidations: [] }),
      restart: () => {
        connection.restarts += 1
        keeper.onLost()
      },
    },
  })
  const open = async () => {
    keeper.onOpen(database.identity)
    await settle()
  }
  return {
    keeper,
    clock,
    steps,
    resets,
    room,
    database,
    prepared,
    connection,
    open,
    leased: async () => {
      await open()
      keeper.onMessage(sent.at(-1) ?? '')
      steps.length = 0
    },
    event: (keys: 'stored' | 'one' = 'one') => {
      database.position += 1
      const { position } = database
      const named = keys === 'stored' ? 'stored' : (['account:1'] as never)
      keeper.onMessage(encodeMessage('event', { id: String(position), writer: 'other', position, keys: named }))
    },
    /** Sends a heartbeat, which then comes back. */
    beat: () => {
      const [tick] = ticking.mock.calls.at(-1) ?? []
      if (typeof tick === 'function') tick()
      keeper.onMessage(sent.at(-1) ?? '')
    },
    isLeased: () => clock.monotonic() < keeper.lease.untilMs,
  }
}

let ticking: Mock<typeof setInterval>
beforeEach(() => {
  ticking = spyOn(globalThis, 'setInterval').mockImplementation((() => undefined) as unknown as typeof setInterval)
})
afterEach(() => void ticking.mockRestore())

describe('the keeper of the lease', () => {
  test('passes the reset of a connection on before it has a lease, and after the connection was prepared', async () => {
    const { open, steps, beat } = setUp()
    await open()
    beat()
    expect(steps).toEqual(['open', 'prepare', 'reset', 'lease', 'proven'])
  })

  test('passes an event on before it acknowledges it, and before a heartbeat behind it renews the lease', async () => {
    const { leased, steps, event, beat } = setUp()
    await leased()
    event()
    await settle()
    beat()
    expect(steps).toEqual(['event', 'send ack', 'lease'])
  })

  test('renews no lease while it reads an event from its row', async () => {
    const { leased, steps, event, beat } = setUp()
    await leased()
    event('stored')
    beat()
    expect(steps).toEqual([])
    await settle()
    expect(steps).toEqual(['stored_event', 'lease', 'send ack'])
  })

  test('passes the heartbeats of others on, and not its own', async () => {
    const { leased, steps, keeper, beat } = setUp()
    await leased()
    keeper.onMessage(encodeMessage('heartbeat', { instance: 'other', heartbeatId: '1.1', seen: undefined }))
    keeper.onMessage(encodeMessage('job', {}))
    beat()
    expect(steps).toEqual(['beat', 'job', 'lease'])
  })

  test('ends its lease at once where an event is missing, before that is passed on', async () => {
    const { leased, steps, database, event, isLeased, connection } = setUp()
    await leased()
    database.position += 1
    event()
    expect(steps).toEqual(['no lease', 'gap', 'lost'])
    expect(isLeased()).toBe(false)
    expect(connection.restarts).toBe(1)
  })

  test('ends its lease before it leaves', async () => {
    const { leased, steps, keeper } = setUp()
    await leased()
    await keeper.close()
    expect(steps).toEqual(['no lease', 'send bye'])
  })
})

describe('a keeper whose records find no room', () => {
  test('ends its lease, acknowledges nothing, and replaces the connections', async () => {
    const { leased, steps, room, event, isLeased, connection } = setUp()
    await leased()
    room.records = 0
    event()
    await settle()
    expect(steps).toEqual(['no lease'])
    expect(isLeased()).toBe(false)
    expect(connection.restarts).toBe(1)
  })

  test('has no lease again before everything passed on was applied, and then begins anew', async () => {
    const { leased, steps, room, event, beat, open, isLeased, connection } = setUp()
    await leased()
    room.records = 0
    event()
    room.records = Number.POSITIVE_INFINITY
    room.isDrained = false
    steps.length = 0
    await open()
    beat()
    expect(steps).toEqual([])
    expect(isLeased()).toBe(false)
    expect(connection.restarts).toBe(2)
    room.isDrained = true
    await open()
    beat()
    expect(steps).toEqual(['open', 'prepare', 'reset', 'lease', 'proven'])
    expect(isLeased()).toBe(true)
  })
})

describe('a keeper that follows another one of the same instance', () => {
  test('notices a database in an older state, and another database', async () => {
    const older = setUp({ seen: { identity: 'db', position: 7 } })
    older.database.position = 6
    await older.open()
    expect(older.prepared).toMatchObject([{ isOther: false }])
    expect(older.resets).toEqual([false])
    const other = setUp({ seen: { identity: 'before', position: 0 } })
    await other.open()
    expect(other.prepared).toMatchObject([{ isOther: true }])
  })
})
