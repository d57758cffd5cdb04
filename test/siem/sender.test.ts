import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createBreakers } from '../../src/platform/breaker.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, createDatabase as createPools, type Database } from '../../src/platform/postgres.ts'
import { BatchTooLarge } from '../../src/platform/siem-transport.ts'
import type { OcsfEvent } from '../../src/siem/ocsf.ts'
import { batchSize, createSiemSender, type SendBatch, type SiemSender } from '../../src/siem/sender.ts'
import { createSiemStore } from '../../src/siem/store.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { createTestLog } from './log.ts'

const log = createLog('silent')
let database: TestDatabase
let pools: Database
let sql: ReturnType<typeof connectOnce>
beforeAll(async () => {
  database = await createDatabase()
  pools = createPools({ connection: database.connection, budget: 12 })
  sql = connectOnce(database.connection)
})
afterAll(async () => {
  await sql?.end()
  await pools?.close(0)
  await database?.drop()
})

/** A receiver that keeps what it took, and may fail before or after it took a batch. */
const createReceiver = () => {
  const taken: OcsfEvent[] = []
  const receiver = {
    taken,
    batches: [] as number[],
    mode: 'up' as 'up' | 'down' | 'silent after taking',
    largest: 0,
    send: (async (events, signal) => {
      receiver.largest = Math.max(receiver.largest, events.length)
      if (receiver.mode === 'down') throw Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })
      receiver.batches.push(events.length)
      taken.push(...events)
      if (receiver.mode === 'up') return
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    }) as SendBatch,
  }
  return receiver
}
type Receiver = ReturnType<typeof createReceiver>

const sequencesOf = (events: readonly OcsfEvent[], month: string) =>
  events
    .filter(({ unmapped }) => unmapped.chain.month === `${month}-01T00:00:00Z`)
    .map(({ metadata }) => metadata.sequence)
/** Without repeated ones. */
const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at + 1)
/** Where an order goes back, which it does only where a batch is sent again. */
const seamsOf = (sequences: readonly number[]) =>
  sequences.filter((each, at) => at > 0 && each <= (sequences[at - 1] ?? 0)).length

describe('the sender of security events', () => {
  let receiver: Receiver
  let clock: ReturnType<typeof manualClock>
  let testLog: ReturnType<typeof createTestLog>
  const senders: SiemSender[] = []
  const start = (
    holder = 'one',
    { send = receiver.send, leaseMs = 2_000 }: { send?: SendBatch; leaseMs?: number } = {},
  ): SiemSender => {
    const breakers = createBreakers({ clock, log })
    const sender = createSiemSender({
      sink: 'https',
      holder,
      store: createSiemStore(pools.batch),
      send,
      breaker: breakers.create({ dependency: 'siem', isFailure: (error) => !(error instanceof BatchTooLarge) }),
      messageOf: (action) => action,
      product: { name: 'Velro', version: '1' },
      clock: systemClock,
      log,
      timing: { pollMs: 5, leaseMs },
    })
    sender.start()
    senders.push(sender)
    return sender
  }
  const isSent = async (count: number) =>
    until(() => unique(receiver.taken.map(({ metadata }) => metadata.uid)).length >= count, `${count} events`)

  beforeEach(async () => {
    await sql`truncate audit_events, audit_links, audit_details, audit_heads, siem_sinks, siem_cursors`
    receiver = createReceiver()
    clock = manualClock()
    testLog = createTestLog(sql)
  })
  afterEach(async () => {
    for (const sender of senders.splice(0)) await sender.close()
  })

  test('sends events from its first start on, each once and in the order of the chain of each month', async () => {
    await testLog.add('2026-10', 7)
    start()
    await until(async () => (await sql`select from siem_cursors`).length === 1, 'the place is kept')
    const ids = [...(await testLog.add('2026-10', 450)), ...(await testLog.add('2026-11', 250))]
    await isSent(700)
    expect(receiver.taken.map(({ metadata }) => metadata.uid)).toEqual(ids)
    expect(sequencesOf(receiver.taken, '2026-10')).toEqual(upTo(457).slice(7))
    expect(sequencesOf(receiver.taken, '2026-11')).toEqual(upTo(250))
    const heads = receiver.taken.filter(({ unmapped }) => unmapped.chain_head !== undefined)
    expect(heads.length).toBe(receiver.batches.length)
    expect(heads.at(-1)?.unmapped).toMatchObject({ chain_head: 'head 250', chain: { sequence: 250 } })
  }, 30_000)

  test('sends everything after its receiver was down for a minute, in order, with duplicates at the seam alone', async () => {
    const sender = start()
    await until(() => sender.figures.state === 'sending', 'the lease')
    await testLog.add('2026-11', 300)
    await isSent(300)
    // Goes down in the middle of a batch: it took it, and the answer was lost.
    receiver.mode = 'silent after taking'
    await testLog.add('2026-11', 100)
    await isSent(400)
    receiver.mode = 'down'
    await until(() => sender.figures.failures > 0, 'a failure')
    for (let second = 0; second < 60; second += 1) {
      clock.advance(1_000)
      await testLog.add('2026-11', 50)
      if (second % 10 === 0) await Bun.sleep(10)
    }
    await until(() => sender.figures.state === 'failing' && sender.figures.lag.events === 3_100, 'the lag is known')
    expect(sender.figures.lag.seconds).toBeGreaterThan(0)
    // One probe each five seconds, not one attempt each poll.
    expect(sender.figures.failures).toBeLessThan(20)
    expect(receiver.largest).toBeLessThanOrEqual(batchSize)
    receiver.mode = 'up'
    clock.advance(5_000)
    await isSent(3_400)
    await until(() => sender.figures.lag.events === 0 && sender.figures.state === 'sending', 'everything is sent')
    const sequences = sequencesOf(receiver.taken, '2026-11')
    expect(unique(sequences)).toEqual(upTo(3_400))
    expect(seamsOf(sequences)).toBe(1)
    expect(sequences.length).toBeLessThanOrEqual(3_400 + 100)
  }, 60_000)

  test('goes on where another sender was, when that one was closed or its lease has ended', async () => {
    start('one')
    await testLog.add('2026-11', 1)
    await until(async () => (await sql`select from siem_sinks`).length === 1, 'the lease')
    const two = start('two')
    await testLog.add('2026-11', 500)
    await until(async () => (await sql`select from siem_cursors where sequence = 501`).length === 1, 'the place')
    expect(two.figures).toMatchObject({ state: 'standby', sent: 0 })
    await senders.shift()?.close()
    await testLog.add('2026-11', 500)
    await isSent(1_000)
    expect(two.figures.state).toBe('sending')
    const sequences = sequencesOf(receiver.taken, '2026-11')
    expect(unique(sequences).at(-1)).toBe(1_001)
    expect(seamsOf(sequences)).toBe(0)
    // Killed: nothing ends its lease but time.
    await sql`update siem_sinks set holder = 'dead', lease_until = clock_timestamp() + interval '1 second'`
    await testLog.add('2026-11', 10)
    await until(() => two.figures.state === 'standby', 'the lease is lost')
    await isSent(1_010)
    expect(seamsOf(sequencesOf(receiver.taken, '2026-11'))).toBeLessThanOrEqual(1)
  }, 60_000)

  test('moves no cursor once another instance has the lease, though the receiver took its batch', async () => {
    let release = () => {}
    const slow: SendBatch = async (events, signal) => {
      await new Promise<void>((resolve) => {
        release = resolve
      })
      await receiver.send(events, signal)
    }
    const frozen = start('frozen', { send: slow, leaseMs: 60_000 })
    await until(() => frozen.figures.state === 'sending', 'the lease')
    await testLog.add('2026-11', 10)
    await Bun.sleep(100)
    await sql`update siem_sinks set holder = 'other', lease_until = clock_timestamp() + interval '1 minute'`
    release()
    await isSent(10)
    await until(() => frozen.figures.state === 'standby', 'the lease is lost')
    expect(await sql`select from siem_cursors`).toHaveLength(0)
  }, 30_000)

  test('sends smaller batches to a receiver that finds them too large, and then all events', async () => {
    const picky: SendBatch = async (events, signal) => {
      if (events.length > 30) throw new BatchTooLarge('413')
      await receiver.send(events, signal)
    }
    const sender = start('one', { send: picky })
    await until(() => sender.figures.state === 'sending', 'the lease')
    await testLog.add('2026-11', 500)
    await isSent(500)
    expect(sequencesOf(receiver.taken, '2026-11')).toEqual(upTo(500))
  }, 30_000)

  test('says of an event that is gone from the log that it is missing, and sends the ones after it', async () => {
    const sender = start()
    await until(() => sender.figures.state === 'sending', 'the lease')
    receiver.mode = 'down'
    const [, second = ''] = await testLog.add('2026-11', 3)
    await sql`delete from audit_events where id = ${second}`
    receiver.mode = 'up'
    clock.advance(10_000)
    await isSent(3)
    expect(receiver.taken.map(({ metadata }) => metadata.event_code)).toEqual([
      'project.changed',
      'audit.event_missing',
      'project.changed',
    ])
    expect(receiver.taken[1]).toMatchObject({ severity: 'Critical', metadata: { uid: second } })
  }, 30_000)
})
