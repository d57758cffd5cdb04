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

describe('sampling', () => {
  let written: SampledPair[][]
  const add = async (pairs: readonly SampledPair[]) => void written.push([...pairs])
  /** Every decision in the middle of its draw: one in `sampledOneIn`, exactly. */
  const evenly = () => 0.5
  const on = { warm_up: true }

  beforeEach(() => {
    written = []
  })

  test('one in 64 is looked at, and counts for as many', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: evenly })
    for (let count = 0; count < sampledOneIn * 10; count += 1) accessFrequency.record(ada, lab, there)
    await accessFrequency.flush()
    expect(written).toEqual([[{ userId: ada, ...lab, hits: sampledOneIn * 10 }]])
  })

  test('whatever the rhythm of the questions, the estimate is near the truth', async () => {
    const { below } = createRandom(7)
    const accessFrequency = createAccessFrequency({
      store: { add },
      flags: on,
      random: () => below(1_000_000) / 1_000_000,
    })
    for (let count = 0; count < 64_000; count += 1) {
      // A rhythm as long as the sample's would hide all but one of these from a plain counter.
      accessFrequency.record(idOf('user', count % 64), lab, there)
    }
    await accessFrequency.flush()
    const [heats = []] = written
    expect(heats.length).toBe(64)
    const total = heats.reduce((sum, { hits }) => sum + hits, 0)
    expect(Math.abs(total / 64_000 - 1)).toBeLessThan(0.1)
  })

  test('things that are not there are not learnt', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: () => 0 })
    accessFrequency.record(ada, lab, noResource)
    accessFrequency.record(ada, work, there)
    await accessFrequency.flush()
    expect(written.flat().map(({ id }) => id)).toEqual([work.id])
  })

  test('what is held is bounded; those that are known grow hotter', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: on, random: () => 0 })
    for (let number = 0; number < 30_000; number += 1) accessFrequency.record(idOf('user', number), lab, there)
    accessFrequency.record(idOf('user', 0), lab, there)
    await accessFrequency.flush()
    expect(written[0]?.length).toBe(10_000)
    expect(written[0]?.[0]?.hits).toBe(2 * sampledOneIn)
  })

  test('a flush with nothing to say sends nothing, one that fails is not kept', async () => {
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

  test('switched off, nothing is learnt', async () => {
    const accessFrequency = createAccessFrequency({ store: { add }, flags: { warm_up: false }, random: () => 0 })
    accessFrequency.record(ada, lab, there)
    await accessFrequency.flush()
    expect(written).toEqual([])
  })
})

describe('the table', () => {
  let database: TestDatabase
  let sql: Sql
  let other: Sql
  const heat = (userId: string, { type, id }: ListedRef, hits: number): SampledPair => ({ userId, type, id, hits })
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

  test('what is added comes on top of what is left, and half of that goes every hour', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64), heat(bob, lab, 64)])
    await age('2 hours')
    await heats.add([heat(ada, lab, 128)])
    const [ofAda, ofBob] = await rows()
    expect(ofAda?.hits).toBeCloseTo(64 / 4 + 128, 1)
    expect(ofBob?.hits).toBe(64)
    const [left] = await sql<{ heat: number }[]>`select heat from access_heat_alive where user_id = ${bob}`
    expect(left?.heat).toBeCloseTo(16, 1)
  })

  test('after years of silence too', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64)])
    await age('10 years')
    await heats.add([heat(ada, lab, 64)])
    expect((await rows())[0]?.hits).toBeCloseTo(64, 5)
  })

  test('a clock that was set back does not heat', async () => {
    await createAccessFrequencyStore(sql).add([heat(ada, lab, 64)])
    await age('-1 hour')
    const [left] = await sql<{ heat: number }[]>`select heat from access_heat_alive`
    expect(left?.heat).toBe(64)
  })

  test('what has cooled down is swept up, what has not stays', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64)])
    await age('7 hours')
    await heats.add([heat(bob, lab, 64)])
    expect(await heats.purge()).toBe(1)
    expect((await rows()).map(({ user_id }) => user_id)).toEqual([bob])
  })

  test('so are things that are gone, people that are gone, and those who may not come in', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64), heat(ada, work, 64), heat(bob, lab, 64), heat(idOf('user', 9), lab, 64)])
    await heats.add([heat(ada, { type: 'generation', id: lab.id }, 64)])
    await sql`update users set status = 'suspended' where id = ${bob}`
    await sql`delete from generations`
    expect(await heats.purge()).toBe(4)
    expect((await rows()).map(({ resource_id }) => resource_id)).toEqual([lab.id])
  })

  test('and the coldest beyond the bound', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64), heat(ada, work, 640), heat(bob, lab, 320)])
    expect(await heats.purge(2)).toBe(1)
    expect((await rows()).map(({ hits }) => hits)).toEqual([640, 320])
  })

  test('sweeping up waits for nobody who writes', async () => {
    const heats = createAccessFrequencyStore(sql)
    await heats.add([heat(ada, lab, 64), heat(bob, lab, 64)])
    await age('1 day')
    await other.begin(async (tx) => {
      await createAccessFrequencyStore(tx).add([heat(ada, lab, 64)])
      expect(await heats.purge()).toBe(1)
    })
    expect((await rows()).map(({ user_id }) => user_id)).toEqual([ada])
  })

  test('instances that write the same rows at once, each in another order, do not deadlock', async () => {
    const connections = Array.from({ length: 4 }, () => connectOnce(database.connection))
    const pairs = Array.from({ length: 300 }, (_, number) => heat(idOf('user', number), lab, 1))
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
