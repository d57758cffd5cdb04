import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { type DecisionSubject, mergeDenials, toEntries } from '../../src/audit/denials.ts'
import { createAuditSource } from '../../src/audit/event.ts'
import { createAuditSink } from '../../src/audit/sink.ts'
import { createSinkStore, type SinkStore } from '../../src/audit/sink-store.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createRandom } from '../../src/kit/random.ts'
import { lockKeys } from '../../src/platform/lock-keys.ts'
import { createLog } from '../../src/platform/log.ts'
import { connect, type Sql } from '../../src/platform/postgres.ts'
import { createKeyedHash } from '../../src/platform/secrets.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 4 })
})
beforeEach(async () => {
  await sql`truncate audit_denials, audit_events, audit_details`
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const source = createAuditSource(createKeyedHash((name) => Buffer.from(name.padEnd(32))))
const newSink = (store: SinkStore = createSinkStore(sql), queued?: number) =>
  createAuditSink({
    store,
    source,
    clock: systemClock,
    log: createLog('silent'),
    ...(queued !== undefined && { limits: { queued } }),
  })

const person = () => {
  const userId = newId()
  return { userId, actor: { userId, sessionId: newId() } }
}
const about = ({ userId, actor }: ReturnType<typeof person>, id = newId()): DecisionSubject => ({
  ...{ actor, userId, action: 'write' },
  resource: { type: 'generation', id },
})
const deny = (sink: ReturnType<typeof newSink>, subject: DecisionSubject) =>
  sink.decided(false, 'team.action_not_included', subject, undefined)

const passMinute = () => sql`update audit_denials set minute = minute - interval '2 minutes'`
type Row = { actor_id: string; target_type: string; target_id: string; count: number; after: Record<string, unknown> }
const events = () =>
  sql<
    Row[]
  >`select actor_id, target_type, target_id, count, after from audit_events where action = 'access.denied' order by id`

describe('denied decisions', () => {
  test('that are equal become one event of their minute, over all instances', async () => {
    const sinks = [newSink(), newSink()] as const
    const asked = about(person())
    for (const sink of [sinks[0], sinks[1], sinks[0], sinks[1], sinks[0]]) {
      deny(sink, asked)
      await sink.flush()
    }
    await sinks[0].closeMinutes()
    expect(await events()).toHaveLength(0)
    await passMinute()
    await Promise.all(sinks.map((sink) => sink.closeMinutes()))
    const [event, ...others] = await events()
    expect(others).toEqual([])
    expect(event).toMatchObject({
      ...{ actor_id: asked.userId, target_type: 'generation', target_id: asked.resource.id, count: 5 },
      after: { action: 'write', reason: 'team.action_not_included', minute: expect.stringMatching(/Z$/) },
    })
  })

  test('of one asker share events where they are more than five, and each is in one of them', async () => {
    const sink = newSink()
    const [scraper, other] = [person(), person()]
    const asked = Array.from({ length: 100 }, () => about(scraper))
    for (const subject of asked) deny(sink, subject)
    deny(sink, asked[0] as DecisionSubject)
    for (let each = 0; each < 5; each += 1) deny(sink, about(other))
    await sink.flush()
    await passMinute()
    await sink.closeMinutes()
    const all = await events()
    const shared = all.filter(({ actor_id }) => actor_id === scraper.userId)
    expect(all.length - shared.length).toBe(5)
    expect(shared.map(({ count }) => count)).toEqual([41, 40, 20])
    expect(shared.map(({ target_type, target_id }) => [target_type, target_id])).toEqual(
      Array(3).fill(['user', scraper.userId]),
    )
    const named = shared.flatMap(({ after }) => after['denials'] as { id: string; count: number }[])
    expect(named.map(({ id }) => id).toSorted()).toEqual(asked.map(({ resource }) => resource.id).toSorted())
    expect(named.find(({ id }) => id === asked[0]?.resource.id)).toMatchObject({ action: 'write', count: 2 })
  })

  test('are left to the instance that makes events of them already', async () => {
    const sink = newSink()
    deny(sink, about(person()))
    await sink.flush()
    await passMinute()
    await sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(${lockKeys.auditDenials})`
      await sink.closeMinutes()
    })
    expect(await events()).toHaveLength(0)
    await sink.closeMinutes()
    expect(await events()).toHaveLength(1)
  })

  test('are kept while Postgres is away, and the rest is counted as dropped and recorded', async () => {
    const real = createSinkStore(sql)
    let isAway = true
    const lost = Object.assign(new Error('the connection was lost'), { code: 'CONNECTION_CLOSED' })
    const sink = newSink({ ...real, write: (...given) => (isAway ? Promise.reject(lost) : real.write(...given)) }, 10)
    const asker = person()
    const asked = Array.from({ length: 12 }, () => about(asker))
    for (const subject of asked.slice(0, 8)) deny(sink, subject)
    await expect(sink.flush()).rejects.toThrow('lost')
    for (const subject of asked.slice(8)) deny(sink, subject)
    expect(sink.figures).toMatchObject({ queued: 10, dropped: 2 })
    isAway = false
    await sink.flush()
    expect(sink.figures.queued).toBe(0)
    await passMinute()
    await sink.closeMinutes()
    expect((await events()).reduce((sum, { count }) => sum + count, 0)).toBe(10)
    const dropped = await sql`select after from audit_events where action = 'audit.decisions_dropped'`
    expect([...dropped]).toEqual([{ after: { dropped: 2 } }])
  })

  test('of a closed minute that are many are added up in parts, and none is lost', async () => {
    const store = createSinkStore(sql)
    const sizes = [3, 3, 3]
    for (const size of sizes) await store.write([], { content: '[]', size })
    await passMinute()
    const taken: number[] = []
    const take = async (parts: readonly string[]) => {
      taken.push(parts.length)
      return []
    }
    while ((await store.closeMinute(5, take)) > 0) {}
    expect(taken).toEqual([2, 1])
  })

  test('whose resource has blanks in its id are read back as they were', async () => {
    const stored = {
      ...({ actor: 'anonymous', user_id: 'u', acting_key_id: null, address: null, user_agent: null } as const),
      denials: [['read project resource.not_visible an id', 2, 'r']] as const,
    }
    const [merged] = await mergeDenials([JSON.stringify([stored]), JSON.stringify([stored])])
    const entries = merged === undefined ? [] : toEntries(merged, 'm')
    expect(entries).toMatchObject([
      { target: { type: 'project', id: 'an id' }, after: { action: 'read', reason: 'resource.not_visible' }, count: 4 },
    ])
  })
})

describe('allowed decisions', () => {
  test('are sampled, about ten a second however many there are, and each stands for those it was chosen from', async () => {
    const clock = manualClock()
    const random = createRandom(7)
    const batches: number[] = []
    const counts: number[] = []
    const sink = createAuditSink({
      store: {
        write: async (events) => {
          batches.push(events.length)
          for (const { event } of events) counts.push(event.count)
        },
        closeMinute: async () => 0,
      },
      ...{ source, clock, log: createLog('silent'), random: () => random.below(1_000_000) / 1_000_000 },
    })
    const asker = person()
    for (let second = 0; second < 20; second += 1) {
      for (let asked = 0; asked < 5_000; asked += 1) {
        if (sink.samples()) sink.decided(true, 'ownership.project_owner', about(asker), undefined)
      }
      clock.advance(1_000)
      await sink.flush()
    }
    expect(batches[0]).toBeLessThan(200)
    const steady = batches.slice(2)
    expect(steady.reduce((sum, count) => sum + count, 0) / steady.length).toBeWithin(5, 15)
    expect(counts.reduce((sum, count) => sum + count, 0)).toBeWithin(70_000, 130_000)
  })
})
