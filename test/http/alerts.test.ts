import { afterAll, beforeAll, expect, test } from 'bun:test'
import { createAlerts } from '../../src/monitoring/alerts/service.ts'
import { createAlertStore } from '../../src/monitoring/alerts/store.ts'
import { countNames, recordOf } from '../../src/monitoring/figures.ts'
import { createRecorder, windowNames } from '../../src/monitoring/recorder.ts'
import { startWebhookWorld, type WebhookWorld } from '../webhooks/world.ts'

let world: WebhookWorld

beforeAll(async () => {
  world = await startWebhookWorld()
})
afterAll(() => world.close())

/** Evaluates figures that the test records, as an instance of this name would. */
const startEvaluator = (instance: string, recorder: ReturnType<typeof createRecorder>, warmUpMs = 0) => {
  const { database } = world.app.services
  const counts = recordOf(countNames, () => 0)
  const read = async () => ({
    windows: recordOf(windowNames, (name) => ({ times: recorder.window(name), counts })),
  })
  const log = { warn: () => {}, info: () => {} }
  return createAlerts({
    store: createAlertStore(database.admin, database.batch),
    read,
    instance,
    clock: world.clock,
    log,
    warmUpMs,
  })
}

const listed = async (query = '') => {
  await world.signIn()
  const { status, body } = await world.client.get(`/api/v1/performance/alerts${query}`, { token: world.operator.token })
  expect(status).toBe(200)
  return body.items
}

test('slow sign-ins open one alert over two instances, which clears after they end, and webhooks get each change once', async () => {
  const hook = await world.webhook(['alert.opened', 'alert.raised', 'alert.cleared'])
  const recorder = createRecorder({ clock: world.clock })
  const instances = ['one', 'other'].map((name) => startEvaluator(name, recorder))
  const second = async (ms: number) => {
    world.clock.advance(1_000)
    for (let at = 0; at < 20; at += 1) recorder.record('authentication', ms, false)
    await Promise.all(instances.map((each) => each.evaluate()))
  }
  await second(20)
  expect(await listed()).toEqual([])
  await second(90)
  expect(await listed('?status=open')).toMatchObject([
    { metric: 'authentication', severity: 'warning', status: 'open', target: 50, cleared_at: null },
  ])
  await second(140)
  const [raised] = await listed('?metric=authentication')
  expect(raised).toMatchObject({ severity: 'critical', raised_at: expect.any(String) })
  expect(raised.value).toBeCloseTo(140, -1)
  for (let at = 0; at < 21; at += 1) await second(20)
  const items = await listed('?status=cleared')
  expect(items).toMatchObject([{ id: raised.id, severity: 'critical', status: 'cleared' }])
  const requests = await hook.wait(3)
  expect(requests.map(({ type, data }) => [type, data.alert_id, data.severity])).toEqual([
    ['alert.opened', raised.id, 'warning'],
    ['alert.raised', raised.id, 'critical'],
    ['alert.cleared', raised.id, 'critical'],
  ])
  await hook.remove()
  for (const each of instances) await each.close()
})

test('an open alert is taken over by another instance after the first has ended, and clears there', async () => {
  const recorder = createRecorder({ clock: world.clock })
  const first = startEvaluator('first', recorder)
  for (let at = 0; at < 20; at += 1) recorder.record('registration', 900, false)
  await first.evaluate()
  await first.close()
  expect(await listed('?status=open')).toMatchObject([{ metric: 'registration', severity: 'critical' }])
  const next = startEvaluator('next', recorder)
  for (let at = 0; at < 21; at += 1) {
    world.clock.advance(1_000)
    await next.evaluate()
  }
  expect(await listed('?status=open')).toEqual([])
  await next.close()
})

test('an instance opens no alert while it warms up', async () => {
  const recorder = createRecorder({ clock: world.clock })
  const cold = startEvaluator('cold', recorder, 60_000)
  const evaluateAfter = async (ms: number) => {
    world.clock.advance(ms)
    for (let at = 0; at < 20; at += 1) recorder.record('l3', 900, false)
    await cold.evaluate()
    return (await listed('?status=open')).length
  }
  expect([await evaluateAfter(59_000), await evaluateAfter(1_000)]).toEqual([0, 1])
  await cold.close()
})

test('an alert of a metric that is not known is not asked for', async () => {
  const { token } = world.operator
  expect((await world.client.get('/api/v1/performance/alerts?metric=unknown', { token })).status).toBe(422)
})
