import { afterAll, afterEach, beforeAll, beforeEach, expect, spyOn, test } from 'bun:test'
import { defaultLeaseTiming } from '../../src/access/invalidation/timing.ts'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { startCaches, type TestCaches } from './caches.ts'
import { idOf } from './random.ts'

let database: TestDatabase
let caches: TestCaches
/** The threads of this process. */
let threads: Worker[]
const userId = idOf('user', 1)

beforeAll(async () => {
  database = await createDatabase()
  const sql = connectOnce(database.connection)
  await sql`insert into users (id, email, display_name, password_hash) values (${userId}, 'ada@example.com', 'a', 'x')`
  await sql.end()
})
beforeEach(async () => {
  threads = []
  const Original = globalThis.Worker
  const starting = spyOn(globalThis, 'Worker').mockImplementation(((...given: ConstructorParameters<typeof Worker>) => {
    const thread = new Original(...given)
    threads.push(thread)
    return thread
  }) as never)
  caches = await startCaches(database.connection)
  starting.mockRestore()
  await caches.setStatus(userId, 'active')
})
afterEach(() => caches.close())
afterAll(() => database.drop())

/** Waits without giving the event loop a turn, as a thread does that is busy with requests. */
const spinUntil = (isSo: () => boolean) => {
  for (const giveUpAt = Date.now() + 30_000; !isSo(); ) {
    if (Date.now() > giveUpAt) throw new Error('The condition did not become true within 30 s')
  }
}
const isKnown = () => caches.facts.peek('account', userId).kind === 'hit'
const know = async () => {
  await caches.leased()
  await caches.facts.gather([factQuery('account', userId)], caches.within())
}

test('the lease is renewed while the thread that decides gives its event loop no turn', () => {
  const { lease } = caches.bus
  // Of a heartbeat that was sent two leases from now.
  const laterMs = systemClock.monotonic() + 3 * defaultLeaseTiming.leaseMs
  spinUntil(() => lease.untilMs > laterMs)
})

test('an event is acknowledged while that thread gives its event loop no turn, and memory then no longer has the fact', async () => {
  await know()
  expect(isKnown()).toBe(true)
  const script = new URL('./suspend-elsewhere.ts', import.meta.url).pathname
  const child = Bun.spawn(['bun', script, JSON.stringify(database.connection), userId], { stdout: 'pipe' })
  // Memory is read all the time, so the event is applied as soon as it was received.
  spinUntil(() => caches.bus.lease.untilMs > systemClock.monotonic() && !isKnown())
  expect(await new Response(child.stdout).text()).toBe('acknowledged\n')
})

test('a thread that fails is replaced: until then there is no lease, and memory was cleared', async () => {
  await know()
  const [first] = threads
  if (first === undefined) throw new Error('No thread was started')
  first.dispatchEvent(new ErrorEvent('error', { message: 'broken', cancelable: true }))
  expect(caches.bus.lease.untilMs).toBe(Number.NEGATIVE_INFINITY)
  expect(caches.bus.noLeaseReason()).toBe('connecting')
  expect(caches.facts.peekStale([factQuery('account', userId)])).toBeUndefined()
  await caches.leased()
  expect(isKnown()).toBe(false)
  await caches.setStatus(userId, 'suspended')
  expect(await caches.readStatus(userId)).toBe('suspended by l3')
})

test('memory is not trusted from when the instance begins to leave', async () => {
  await know()
  const closing = caches.close()
  expect(caches.bus.lease.untilMs).toBe(Number.NEGATIVE_INFINITY)
  expect(isKnown()).toBe(false)
  await closing
})
