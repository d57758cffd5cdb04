import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { noResource, type ResourceFacts } from '../../src/access/policy/facts/resource-walk.ts'
import type { ListedRef } from '../../src/access/policy/matrix.ts'
import { createAccessFrequency, sampledOneIn } from '../../src/access/warm-up/access-frequency.ts'
import { createAccessFrequencyStore, type SampledPair } from '../../src/access/warm-up/access-frequency-store.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { createRandom, idOf } from './random.ts'
import { clear, store } from './world.ts'

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const lab: ListedRef = { type: 'project', id: idOf('project', 1) }
const work: ListedRef = { type: 'generation', id: idOf('generation', 1) }

const there: ResourceFacts = {
  project: { ownerId: ada, visibility: 'private', allowDerivatives: true },
  generation: undefined,
  grant: undefined,
}

describe('the sampling of decisions', () => {
  let written: SampledPair[][]
  const add = async (pairs: readonly SampledPair[]) => void written.push([...pairs])
  /** With the mean gap every time, exactly one decision in 64 is sampled. */
  const evenly = () => 0.5
  const on = { warm_up: true }

  beforeEach(() => {
    written = []
  })

  test('takes one decision in 64 and counts it as 64', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: evenly })
    for (let count = 0; count < sampledOneIn * 10; count += 1) accessFrequency.record(ada, lab, there)
    await accessFrequency.flush()
    expect(written).toEqual([[{ userId: ada, ...lab, hits: sampledOneIn * 10 }]])
  })

  test('estimates periodic requests correctly at any period', async () => {
    const { below } = createRandom(7)
    const accessFrequency = createAccessFrequency({
      store: { add },
      flags: on,
      random: () => below(1_000_000) / 1_000_000,
    })
    for (let count = 0; count < 64_000; count += 1) {
      // With a fixed gap, requests of the same period would be sampled always or never.
      accessFrequency.record(idOf('user', count % 64), lab, there)
    }
    await accessFrequency.flush()
    const [heats = []] = written
    expect(heats.length).toBe(64)
    const total = heats.reduce((sum, { hits }) => sum + hits, 0)
    expect(Math.abs(total / 64_000 - 1)).toBeLessThan(0.1)
  })

  test('does not record resources that do not exist', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: () => 0 })
    accessFrequency.record(ada, lab, noResource)
    accessFrequency.record(ada, work, there)
    await accessFrequency.flush()
    expect(written.flat().map(({ id }) => id)).toEqual([work.id])
  })

  test('holds a bounded number of pairs, and keeps counting those it holds', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: () => 0 })
    for (let number = 0; number < 30_000; number += 1) accessFrequency.record(idOf('user', number), lab, there)
    accessFrequency.record(idOf('user', 0), lab, there)
    await accessFrequency.flush()
    expect(written[0]?.length).toBe(10_000)
    expect(written[0]?.[0]?.hits).toBe(2 * sampledOneIn)
  })

  test('sends nothing for an empty flush, and drops the samples of a failed one', async () => {
    let fails = true
    const accessFrequency = createAccessFrequency({
      store: { add: (heats) => (fails ? Promise.reject(new Error('gone')) : add(heats)) },
      flags: on,
      random: () => 0,
    })
    await accessFrequency.flush()
    accessFrequency.record(ada, lab, there)
    expect(await accessFrequency.flush().catch(({ message }) => message)).toBe('gone')
    fails = false
    await accessFrequency.flush()
    accessFrequency.record(bob, lab, there)
    await accessFrequency.flush()
    expect(written.flat().map(({ userId }) => userId)).toEqual([bob])
  })

  test('records nothing while the warm-up is switched off', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: { warm_up: false }, random: () => 0 })
    accessFrequency.record(ada, lab, there)
    await accessFrequency.flush()
    expect(written).toEqual([])
  })
})

describe('the table of access frequencies', () => {
  let database: TestDatabase
  let sql: Sql
  let other: Sql
  const pairOf = (userId: string, { type, id }: ListedRef, hits: number): SampledPair => ({ userId, type, id, hits })
  const rows = () => sql<{ user_id: string; resource_id: string; hits: number }[]>`
    select user_id, resource_id, hits from access_heat order by user_id, resource_type, resource_id`
  const age = (interval: string) => sql`update access_heat set last_at = last_at - ${interval}::interval`

  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
    other = connectOnce(database.connection)
  })
  afterAll(async () => {
    await sql.end()
    await other.end()
    await database.drop()
  })
  beforeEach(async () => {
    await sql`truncate access_heat`
    await clear(sql)
    await store(sql, {
      users: [ada, bob].map((id) => ({ id, status: 'active', role: 'user' })),
      teams: [],
      members: [],
      projects: [{ id: lab.id, owner_id: ada, visibility: 'private', allow_derivatives: true }],
      grants: [],
      generations: [{ id: work.id, owner_id: ada, project_id: null }],
    })
  })

  test('adds hits to the decayed frequency, which halves every hour', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([pairOf(ada, lab, 64), pairOf(bob, lab, 64)])
    await age('2 hours')
    await heats.add([pairOf(ada, lab, 128)])
    const [ofAda, ofBob] = await rows()
    expect(ofAda?.hits).toBeCloseTo(64 / 4 + 128, 1)
    expect(ofBob?.hits).toBe(64)
    const [left] = await sql<{ heat: number }[]>`select heat from access_heat_alive where user_id = ${bob}`
    expect(left?.heat).toBeCloseTo(16, 1)
  })

  test('decays over years without an error', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([pairOf(ada, lab, 64)])
    await age('10 years')
    await heats.add([pairOf(ada, lab, 64)])
    expect((await rows())[0]?.hits).toBeCloseTo(64, 5)
  })

  test('does not raise a frequency when the clock was set back', async () => {
    await createAccessFrequencyStore(sql).add([pairOf(ada, lab, 64)])
    await age('-1 hour')
    const [left] = await sql<{ heat: number }[]>`select heat from access_heat_alive`
    expect(left?.heat).toBe(64)
  })

  test('purges decayed pairs and keeps the others', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([pairOf(ada, lab, 64)])
    await age('7 hours')
    await heats.add([pairOf(bob, lab, 64)])
    expect(await heats.purge()).toBe(1)
    expect((await rows()).map(({ user_id }) => user_id)).toEqual([bob])
  })

  test('purges pairs of deleted resources, and of deleted and suspended users', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([
      pairOf(ada, lab, 64),
      pairOf(ada, work, 64),
      pairOf(bob, lab, 64),
      pairOf(idOf('user', 9), lab, 64),
    ])
    await heats.add([pairOf(ada, { type: 'generation', id: lab.id }, 64)])
    await sql`update users set status = 'suspended' where id = ${bob}`
    await sql`delete from generations`
    expect(await heats.purge()).toBe(4)
    expect((await rows()).map(({ resource_id }) => resource_id)).toEqual([lab.id])
  })

  test('purges the coldest pairs beyond the bound', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([pairOf(ada, lab, 64), pairOf(ada, work, 640), pairOf(bob, lab, 320)])
    expect(await heats.purge(2)).toBe(1)
    expect((await rows()).map(({ hits }) => hits)).toEqual([640, 320])
  })

  test('purges without waiting for writers', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([pairOf(ada, lab, 64), pairOf(bob, lab, 64)])
    await age('1 day')
    await other.begin(async (tx) => {
      await createAccessFrequencyStore(tx).add([pairOf(ada, lab, 64)])
      expect(await heats.purge()).toBe(1)
    })
    expect((await rows()).map(({ user_id }) => user_id)).toEqual([ada])
  })

  test('takes concurrent writes of the same rows in different orders without deadlock', async () => {
    const connections = Array.from({ length: 4 }, () => connectOnce(database.connection))
    const pairs = Array.from({ length: 300 }, (_, number) => pairOf(idOf('user', number), lab, 1))
    const orders = connections.map((_, index) => (index % 2 === 0 ? pairs : [...pairs].reverse()))
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(
        connections.map((connection, index) => createAccessFrequencyStore(connection).add(orders[index] ?? [])),
      )
    }
    await Promise.all(connections.map((connection) => connection.end()))
    const all = await rows()
    expect(all.length).toBe(300)
    for (const { hits } of all) expect(hits).toBeCloseTo(40, 0)
  })
})
