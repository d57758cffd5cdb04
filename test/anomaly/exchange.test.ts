import { afterAll, beforeAll, expect, test } from 'bun:test'
import { type Delta, newDelta } from '../../src/anomaly/delta.ts'
import { anomalyScripts, createAnomalyExchange, decodeBatch, encodeBatch } from '../../src/anomaly/exchange.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis, type Forgery } from '../../src/platform/redis.ts'
import { redis as sharedRedis } from '../harness/redis.ts'

const delta = (principal: number): Delta => ({
  ...newDelta('address', principal),
  failed: 3,
  accounts: [1, 255],
  places: [{ session: 1, network: 2, country: 3, device: 4, firstMs: 5, lastMs: 6 }],
})

let redis: ReturnType<typeof createRedis<keyof typeof anomalyScripts>>
beforeAll(async () => {
  redis = createRedis({
    url: (await sharedRedis()).url,
    clock: systemClock,
    log: createLog('silent'),
    scripts: anomalyScripts,
  })
  while (redis.state() !== 'up') await Bun.sleep(2)
})
afterAll(() => redis?.close())

let prefixes = 0
const deployment = () => {
  prefixes += 1
  const prefix = `test-${process.pid}-${Date.now()}-${prefixes}`
  const forged: Forgery[] = []
  const instance = (name: string, secret = 'one') =>
    createAnomalyExchange({
      redis,
      prefix,
      instance: name,
      authenticate: (text) => new Bun.CryptoHasher('sha256', secret).update(text).digest('base64url'),
      onForged: (forgery) => forged.push(forgery),
    })
  return { prefix, forged, instance }
}

test('an instance receives the deltas of the others, each batch once, and not those it sent', async () => {
  const { instance, forged } = deployment()
  const [one, two] = [instance('one'), instance('two')]
  const now = Date.now()
  expect(await one.exchange([delta(1)], now)).toEqual([])
  expect(await two.exchange([delta(2)], now)).toEqual([delta(1)])
  expect(await one.exchange([], now)).toEqual([delta(2)])
  expect(await one.exchange([], now)).toEqual([])
  expect(await two.exchange([], now)).toEqual([])
  expect(forged).toEqual([])
})

test('a batch that no instance with this SECRET has written is not believed, and reported', async () => {
  const { instance, forged } = deployment()
  const stranger = instance('stranger', 'another')
  await stranger.exchange([delta(1)], Date.now())
  expect(await instance('one').exchange([], Date.now())).toEqual([])
  expect(forged).toEqual([{ what: 'anomaly', key: 'stranger' }])
})

test('a genuine batch that is written again, by the same name or another, or late, is not believed', async () => {
  const { prefix, instance, forged } = deployment()
  const reader = instance('three')
  await instance('one').exchange([delta(1)], Date.now())
  expect(await reader.exchange([], Date.now())).toEqual([delta(1)])
  const key = `velro:{anomalies:${prefix}}`
  const [[, fields] = ['', []]] = (await redis.run(({ client }) => client.xrange(key, '-', '+'))) as [
    string,
    string[],
  ][]
  await redis.run(({ client }) => client.del(key))
  const [, , , batch = '', , authentication = ''] = fields
  for (const name of ['one', 'two'])
    await redis.run(({ client }) => client.xadd(key, '*', 'i', name, 'b', batch, 'a', authentication))
  expect(await reader.exchange([], Date.now())).toEqual([])
  expect(forged).toEqual([{ what: 'anomaly', key: 'two' }])
  expect(decodeBatch(batch, Date.now() + 600_000)).toBeUndefined()
  expect(decodeBatch(batch, Date.now())?.deltas).toEqual([delta(1)])
})

test('a batch with anything but what instances write is read without it', () => {
  const [nowMs, [good]] = JSON.parse(encodeBatch([delta(1)], 1_000)) as [number, unknown[][]]
  const bad = [null, 1, 'text', [], (good ?? []).slice(1), (good ?? []).with(1, -1), (good ?? []).with(7, ['x'])]
  expect(decodeBatch(JSON.stringify([nowMs, [...bad, good]]), 1_000)?.deltas).toEqual([delta(1)])
  for (const text of ['', 'null', '[]', '{}', '[1000,{}]', '["x",[]]']) expect(decodeBatch(text, 1_000)).toBeUndefined()
})
