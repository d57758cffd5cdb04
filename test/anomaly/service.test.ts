import { afterEach, expect, test } from 'bun:test'
import type { Delta } from '../../src/anomaly/delta.ts'
import type { AnomalyExchange } from '../../src/anomaly/exchange.ts'
import { noPlace } from '../../src/anomaly/ring.ts'
import { type AddressToBlock, type Anomalies, createAnomalies } from '../../src/anomaly/service.ts'
import { createSignals } from '../../src/anomaly/signals.ts'
import type { AnomalyMode } from '../../src/config.ts'
import type { IncidentReport } from '../../src/incidents/report.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'

const running: Anomalies[] = []
afterEach(() => {
  for (const anomalies of running.splice(0)) anomalies.close()
})

/** Instances that exchange deltas in memory. */
const startInstances = (
  count: number,
  {
    accounts = 0,
    operator = false,
    mode = 'enforce',
  }: { accounts?: number; operator?: boolean; mode?: AnomalyMode } = {},
) => {
  const boxes = Array.from({ length: count }, (): Delta[] => [])
  let aheadMs = 0
  const clock = { ...systemClock, now: () => systemClock.now() + aheadMs }
  const instances = boxes.map((own) => {
    const signals = createSignals({ high: 1, low: 2, subject: 3 })
    const incidents: IncidentReport[] = []
    const exchange: AnomalyExchange = {
      exchange: async (deltas) => {
        for (const box of boxes) if (box !== own) box.push(...deltas)
        return own.splice(0)
      },
    }
    const anomalies = createAnomalies({
      mode,
      signals,
      exchange,
      near: [],
      findStanding: async () => ({ accounts, operator }),
      openIncident: (report) => incidents.push(report),
      clock,
      log: createLog('silent'),
    })
    running.push(anomalies)
    const blocked: AddressToBlock[] = []
    anomalies.onBlock(async (addresses) => void blocked.push(...addresses))
    return { signals, anomalies, incidents, blocked }
  })
  /** Everybody has what was seen, and has judged it. */
  const settle = async () => {
    for (let times = 0; times < 4; times += 1) {
      for (const { anomalies } of instances) await anomalies.tick()
      await Bun.sleep(0)
    }
  }
  const pass = (ms: number) => {
    aheadMs += ms
  }
  return { instances, settle, pass }
}

const fail = (signals: ReturnType<typeof createSignals>, address: string, account: number) =>
  signals.put('address', address, 'failed', account, undefined, noPlace, false, false)

test('an attack of which each instance sees a third is found by all of them, and named where its address is seen', async () => {
  const { instances, settle } = startInstances(3)
  for (let account = 1; account <= 6; account += 1) {
    const { signals } = instances[account % 3] ?? {}
    if (signals !== undefined) fail(signals, '192.0.2.1', account)
  }
  await settle()
  for (const { anomalies, incidents } of instances) {
    expect(anomalies.find('address', '192.0.2.1')).toMatchObject({ reason: 'sign_in.many_accounts', level: 1 })
    expect(anomalies.factorOf('address', '192.0.2.1')).toBe(0.5)
    expect(incidents[0]).toMatchObject({
      kind: 'anomaly.credential_stuffing',
      subject: { type: 'address', id: '192.0.2.1' },
    })
  }
})

test('an instance that has not seen the principal of a verdict names it by its first request there', async () => {
  const { instances, settle } = startInstances(2)
  const [one, two] = instances
  if (one === undefined || two === undefined) throw new Error('There are two')
  for (let account = 1; account <= 12; account += 1) fail(one.signals, '192.0.2.2', account)
  await settle()
  expect(one.anomalies.factorOf('address', '192.0.2.2')).toBe(0.1)
  expect(two.anomalies.factorOf('address', '192.0.2.2')).toBe(1)
  expect(two.incidents).toEqual([])
  fail(two.signals, '192.0.2.2', 99)
  expect(two.anomalies.factorOf('address', '192.0.2.2')).toBe(0.1)
  expect(two.incidents).toHaveLength(1)
})

const attack = async (address: string, options: Parameters<typeof startInstances>[1], accounts = 40) => {
  const started = startInstances(1, options)
  const [one] = started.instances
  if (one === undefined) throw new Error('There is one')
  for (let account = 1; account <= accounts; account += 1) fail(one.signals, address, account)
  await started.settle()
  return { ...started, ...one }
}

test('an address that tries very many accounts is blocked, but never one of two accounts or more, of an operator, or of a private network', async () => {
  for (const [address, options, factor] of [
    ['192.0.2.3', { accounts: 1 }, 0],
    ['2001:db8:0:3::/64', {}, 0],
    ['192.0.2.3', { accounts: 2 }, 0.1],
    ['192.0.2.3', { operator: true }, 0.1],
    ['10.1.2.3', {}, 0.1],
    ['fd00:0:0:3::/64', {}, 0.1],
    ['127.0.0.1', {}, 0.1],
  ] as const) {
    const { anomalies, blocked } = await attack(address, options)
    expect([address, anomalies.factorOf('address', address)]).toEqual([address, factor])
    const expected = { address, reason: 'sign_in.many_accounts', lastsS: 300 } as const
    expect(blocked).toEqual(factor === 0 ? [expected] : [])
  }
})

test('an address is blocked once for each verdict, longer for a later one, and again only when an operator lifted it some time ago', async () => {
  const { anomalies, signals, blocked, settle, pass } = await attack('192.0.2.7', {})
  const goOn = async () => {
    for (let account = 1; account <= 40; account += 1) fail(signals, '192.0.2.7', account)
    await settle()
    return blocked.map(({ lastsS }) => lastsS)
  }
  expect(await goOn()).toEqual([300])
  pass(400_000)
  expect(await goOn()).toEqual([300, 600])
  anomalies.lift('192.0.2.7')
  pass(100_000)
  expect(await goOn()).toEqual([300, 600])
  expect(anomalies.find('address', '192.0.2.7')).toBeUndefined()
  pass(30_000)
  expect(await goOn()).toEqual([300, 600, 300])
})

test('an address that could not be blocked keeps its factor, and the next one is blocked', async () => {
  const { anomalies, signals, blocked, settle } = await attack('192.0.2.8', {}, 0)
  anomalies.onBlock(async (addresses) => {
    if (addresses.some(({ address }) => address === '192.0.2.8')) throw new Error('Postgres is away')
    blocked.push(...addresses)
  })
  for (const address of ['192.0.2.8', '192.0.2.9']) {
    for (let account = 1; account <= 40; account += 1) fail(signals, address, account)
    await settle()
    expect(anomalies.factorOf('address', address)).toBe(0)
  }
  expect(blocked.map(({ address }) => address)).toEqual(['192.0.2.9'])
})

test('a verdict expires, and an operator can lift it', async () => {
  const { instances, settle, pass } = startInstances(1)
  const [one] = instances
  for (let account = 1; account <= 6; account += 1) if (one !== undefined) fail(one.signals, '192.0.2.4', account)
  await settle()
  expect(one?.anomalies.factorOf('address', '192.0.2.4')).toBe(0.5)
  pass(299_000)
  expect(one?.anomalies.factorOf('address', '192.0.2.4')).toBe(0.5)
  pass(2_000)
  expect(one?.anomalies.factorOf('address', '192.0.2.4')).toBe(1)
  for (let account = 1; account <= 6; account += 1) if (one !== undefined) fail(one.signals, '192.0.2.5', account)
  await settle()
  one?.anomalies.lift('192.0.2.5')
  expect(one?.anomalies.find('address', '192.0.2.5')).toBeUndefined()
})

test('where ANOMALY is monitor an incident is opened, no limit changes and nothing is blocked', async () => {
  const { instances, settle } = startInstances(1, { mode: 'monitor' })
  const [one] = instances
  for (let account = 1; account <= 6; account += 1) if (one !== undefined) fail(one.signals, '192.0.2.6', account)
  await settle()
  expect(one?.incidents).toHaveLength(1)
  expect(one?.incidents[0]?.evidence).toMatchObject({ factor: 1 })
  expect(one?.anomalies.factorOf('address', '192.0.2.6')).toBe(1)
  expect((await attack('192.0.2.6', { mode: 'monitor' })).blocked).toEqual([])
})
