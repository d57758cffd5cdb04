import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { Redis as Client } from 'ioredis'
import { manualClock } from '../../src/kit/clock.ts'
import { createBudgets, type Demand } from '../../src/limits/budgets.ts'
import { startRedis } from '../harness/redis.ts'
import { burst, type Instance, mac, startInstances } from './instances.ts'

let ids = 0
/** A demand on a new key, whose window is longer than a test. */
const demandOf = (limit: number, over: Partial<Demand> = {}): Demand => {
  ids += 1
  return { budget: 'api', id: `key-${ids}`, limit, windowMs: 600_000, cost: 1, ...over }
}

describe('an instance alone', () => {
  const alone = () => {
    const clock = manualClock()
    return { clock, budgets: createBudgets({ clock, exchange: undefined, instances: () => 1 }) }
  }

  test('admits the limit in any window, and a unit is free again after one window and a slot', () => {
    const { clock, budgets } = alone()
    const demand = demandOf(10, { windowMs: 60_000 })
    let admitted: number[] = []
    for (let ms = 0; ms < 300_000; ms += 250) {
      if (budgets.takeLocally(demand)?.admitted) admitted = [...admitted, ms]
      clock.advance(250)
    }
    for (const at of admitted)
      expect(admitted.filter((each) => each >= at && each < at + 60_000).length).toBeLessThan(11)
    // Ten at once, and ten more each window and slot.
    expect(admitted.length).toBe(50)
  })

  test('says in how long the demand can be admitted, and admits it then', () => {
    const { clock, budgets } = alone()
    const demand = demandOf(3, { windowMs: 60_000 })
    for (const ms of [0, 10_000, 20_000]) {
      clock.advance(ms)
      budgets.takeLocally(demand)
    }
    const refused = budgets.takeLocally(demand)
    expect(refused).toMatchObject({ admitted: false, remaining: 0 })
    clock.advance((refused?.retryAfterMs ?? 0) - 1)
    expect(budgets.takeLocally(demand)?.admitted).toBe(false)
    clock.advance(1)
    expect(budgets.takeLocally(demand)?.admitted).toBe(true)
  })

  test('takes several demands at once, or none of them where one does not fit', async () => {
    const { budgets } = alone()
    const [wide, narrow] = [demandOf(5), demandOf(2)]
    for (let time = 0; time < 2; time += 1) expect((await budgets.take([wide, narrow])).admitted).toBe(true)
    expect(await budgets.take([wide, narrow])).toMatchObject({ admitted: false, demand: narrow })
    expect((await budgets.take([wide])).remaining).toBe(2)
  })

  test('counts a charge that it does not refuse', async () => {
    const { budgets } = alone()
    const demand = demandOf(3)
    for (let time = 0; time < 5; time += 1) budgets.charge(demand)
    expect(budgets.takeLocally(demand)?.admitted).toBe(false)
  })

  test('keeps a bounded number of keys in a flood of them', () => {
    const clock = manualClock()
    const budgets = createBudgets({ clock, exchange: undefined, instances: () => 1, maxKeys: 100 })
    for (let key = 0; key < 10_000; key += 1) budgets.takeLocally(demandOf(5))
    expect(budgets.size).toBeLessThan(101)
  })

  test('forgets a key that is lifted', async () => {
    const { budgets } = alone()
    const demand = demandOf(1)
    budgets.takeLocally(demand)
    expect(budgets.takeLocally(demand)?.admitted).toBe(false)
    expect(await budgets.list(10)).toMatchObject([{ budget: 'api', id: demand.id, limit: 1, used: 1, refused: 1 }])
    await budgets.lift('api', demand.id)
    expect(budgets.takeLocally(demand)?.admitted).toBe(true)
  })
})

describe('three instances with one Redis', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>
  let instances: Instance[]
  beforeAll(async () => {
    redis = await startRedis()
    instances = await startInstances(redis.url, 3)
  })
  afterAll(async () => {
    await Promise.all(instances.map((instance) => instance.close()))
    await redis.stop()
  })
  // Demands of every kind, an outage of Redis and counts that are lifted: nothing of that looks forged.
  afterEach(() => expect(instances.flatMap(({ forgeries }) => forgeries)).toEqual([]))

  test('admit exactly the limit of 5 times as many demands at once', async () => {
    expect(await burst('exact', instances, demandOf(60), 300)).toBe(60)
    expect(await burst('exact', instances, demandOf(500), 2_500)).toBe(500)
  })

  test('admit the limit within 5 % where they decide by memory', async () => {
    for (const limit of [120, 600]) {
      const admitted = await burst('local', instances, demandOf(limit), 5 * limit)
      expect(Math.abs(admitted - limit)).toBeLessThan(limit * 0.05)
    }
  })

  test('list a limited key with its counts, and lift it for all', async () => {
    const demand = demandOf(5, { budget: 'media' })
    await burst('exact', instances, demand, 20)
    const [one, other] = instances
    const find = async () => (await one?.budgets.list(100))?.find(({ id }) => id === demand.id)
    // Refusals are reported in the background.
    let found = await find()
    while (found === undefined) {
      await Bun.sleep(10)
      found = await find()
    }
    expect(found).toMatchObject({ budget: 'media', limit: 5, used: 5 })
    expect(found?.untilMs).toBeGreaterThan(500_000)
    expect(await other?.budgets.lift('media', demand.id)).toBe(true)
    for (const { budgets } of instances) budgets.forget('media', demand.id)
    expect(await burst('exact', instances, demand, 20)).toBe(5)
  })

  test('admit at most the limit each while Redis is gone, and nothing of that again when it is back empty', async () => {
    const demand = demandOf(30)
    expect(await burst('exact', instances, demand, 15)).toBe(15)
    const port = Number(new URL(redis.url).port)
    await redis.stop()
    const during = await burst('exact', instances, demand, 450)
    expect(15 + during).toBeLessThanOrEqual(3 * 30)
    redis = await startRedis({ port })
    await Promise.all(instances.map((instance) => instance.connected()))
    expect(await burst('exact', instances, demand, 450)).toBe(0)
    // An instance that starts now learns of all of it.
    const [late] = await startInstances(redis.url, 1)
    while ((await late?.budgets.list(1)) === undefined) await Bun.sleep(5)
    await Bun.sleep(1_500)
    expect(await burst('exact', late ? [late] : [], demand, 30)).toBe(0)
    await late?.close()
  })
})

describe('counts in Redis that someone else wrote', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>
  let client: Client
  let instances: Instance[]
  beforeAll(async () => {
    redis = await startRedis()
    client = new Client(redis.url)
    instances = await startInstances(redis.url, 3)
  })
  afterAll(async () => {
    client?.disconnect()
    await Promise.all(instances.map((instance) => instance.close()))
    await redis.stop()
  })
  const prefix = `velro:{limits:2:${mac.keyId}:test}:`
  const hashOf = ({ budget, id }: Demand) => `${prefix}${budget}|${id}`
  const slotNow = ({ windowMs }: Demand) => Math.floor(Date.now() / (windowMs / 120))
  const forgedBy = (demand: Demand) =>
    instances.flatMap(({ forgeries }) => forgeries).filter(({ key }) => key === `${demand.budget}|${demand.id}`)

  const forgeries: Readonly<Record<string, (demand: Demand) => Promise<unknown>>> = {
    'of units': (demand) => client.hset(hashOf(demand), slotNow(demand), 1_000),
    'of units in a slot of the future': (demand) => client.hset(hashOf(demand), slotNow(demand) + 2, 1_000),
    'with a claim of the forger': (demand) =>
      client.hset(hashOf(demand), slotNow(demand), 1_000, '@x.1', `${Date.now()} 1000 ${mac.tag('1000')}`),
    'with the claim of another key': async (demand) => {
      const other = demandOf(2_000)
      expect(await burst('exact', instances, other, 1_500)).toBe(1_500)
      const claims = Object.entries(await client.hgetall(hashOf(other))).filter(([field]) => field.startsWith('@'))
      expect(claims).toHaveLength(3)
      await client.hset(hashOf(demand), Object.fromEntries([...claims, [String(slotNow(demand)), '1000']]))
    },
  }
  for (const [what, forge] of Object.entries(forgeries)) {
    test(`${what} refuse no demand, are reported, and the limit holds`, async () => {
      const unused = demandOf(30)
      await forge(unused)
      expect(await burst('exact', instances, unused, 30)).toBe(30)
      expect(forgedBy(unused).length).toBeGreaterThan(0)
      const halfUsed = demandOf(30)
      expect(await burst('exact', instances, halfUsed, 15)).toBe(15)
      await forge(halfUsed)
      expect(await burst('exact', instances, halfUsed, 15)).toBe(15)
      // What others counted is lost with the forged count, so each instance admits the rest of its own.
      expect(await burst('exact', instances, halfUsed, 300)).toBeLessThanOrEqual(60)
      expect(await burst('exact', instances, halfUsed, 300)).toBe(0)
    })
  }

  test('that are lowered or deleted each time leave the limit of each instance', async () => {
    for (const lower of [
      (demand: Demand) => client.unlink(hashOf(demand)),
      (demand: Demand) => client.hset(hashOf(demand), slotNow(demand), -1_000_000),
    ]) {
      for (const kind of ['exact', 'local'] as const) {
        const demand = demandOf(30)
        let admitted = 0
        for (let round = 0; round < 40; round += 1) {
          await lower(demand)
          admitted += await burst(kind, instances, demand, 15)
        }
        expect([kind, admitted]).toEqual([kind, 90])
      }
    }
  })

  test('that are of another type or no numbers are removed, and the limit holds', async () => {
    for (const write of [
      (key: string) => client.set(key, 'written by hand'),
      (key: string) => client.hset(key, '1e3', 'x', 'nan', '1', 'refused', 'x', 'limit', 'y', '@', '', '@x', 'y'),
      (key: string, slot: number) => client.hset(key, slot, 'x', slot - 1, '1e300', slot - 2, '9'.repeat(400)),
      (key: string) =>
        client.hset(key, Object.fromEntries(Array.from({ length: 9_000 }, (_, at) => [`field ${at}`, 'x']))),
    ]) {
      const demand = demandOf(30)
      await write(hashOf(demand), slotNow(demand))
      expect(await burst('exact', instances, demand, 60)).toBe(30)
    }
    await client.set(`${prefix}limited`, 'written by hand')
    const demand = demandOf(3)
    expect(await burst('exact', instances, demand, 30)).toBe(3)
    expect(await burst('exact', instances, demand, 30)).toBe(0)
    const [one] = instances
    while (!(await one?.budgets.list(100))?.some(({ id }) => id === demand.id)) await Bun.sleep(10)
  })

  test('are not listed, and are reported', async () => {
    const demand = demandOf(30)
    await client.hset(hashOf(demand), slotNow(demand), 1_000, 'refused', 5, 'limit', 30)
    await client.zadd(`${prefix}limited`, Date.now() + 60_000, `${demand.budget}|${demand.id}`)
    await client.zadd(`${prefix}limited`, Date.now() + 60_000, 'nothing|is there')
    const listed = (await instances[0]?.budgets.list(100)) ?? []
    expect(listed.filter(({ id, budget }) => id === demand.id || budget === 'nothing')).toEqual([])
    expect(forgedBy(demand).length).toBeGreaterThan(0)
  })
})
