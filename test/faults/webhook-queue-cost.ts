/**
 * What a lease of deliveries costs with a long queue: `bun test/faults/webhook-queue-cost.ts [DELIVERIES]`. Each statement was
 * planned on its connection while the queue was empty, and again after `analyze`.
 */
import process from 'node:process'
import { connect } from '../../src/platform/postgres.ts'
import { createDeliveryStore } from '../../src/webhooks/delivery-store.ts'
import { reapAll } from '../harness/reaper.ts'
import { createDatabase } from '../harness.ts'

const deliveries = Number(process.argv[2] ?? 10_000)
const rounds = 20

/** How many webhooks there are, and how many resources each has. */
const shapes = [
  { webhooks: 1, resources: deliveries },
  { webhooks: 1, resources: 1 },
  { webhooks: 100, resources: deliveries },
]

for (const shape of shapes) {
  const { connection, drop } = await createDatabase()
  const sql = connect(connection, { max: 1 })
  const store = createDeliveryStore(sql)
  await sql`
    insert into users (id, email, display_name, password_hash, role)
    values (gen_random_uuid(), 'a@example.com', 'A', 'x', 'admin')`
  await sql`
    insert into webhooks (id, url, events, secret, responsible_id, created_at, updated_at)
    select gen_random_uuid(), 'https://receiver.invalid/', '{user.created}', 'x', (select id from users), now(), now()
      from generate_series(1, ${shape.webhooks}::int)`
  const lease = async () => {
    const now = new Date()
    const leased = await store.lease({
      now,
      settleMs: 0,
      leaseUntil: new Date(now.getTime() + 60_000),
      limit: 16,
      perWebhook: 4,
      perHost: 8,
      perTeam: 4,
      underWay: { webhooks: new Map(), hosts: new Map(), teams: new Map() },
    })
    for (const each of leased)
      await sql`
      update webhook_deliveries set lease_until = null, attempts = 0 where event_id = ${each.event_id} and webhook_id = ${each.webhook_id}`
    return leased.length
  }
  const measure = async () => {
    const took: number[] = []
    let leased = 0
    for (let round = 0; round < rounds; round += 1) {
      const startedMs = performance.now()
      leased = await lease()
      took.push(performance.now() - startedMs)
    }
    took.sort((a, b) => a - b)
    return `${took[rounds / 2]?.toFixed(2)} ms, at most ${took.at(-1)?.toFixed(2)} ms, ${leased} leased`
  }
  const figures: Record<string, unknown> = { ...shape, deliveries, empty: await measure() }
  await sql`
    insert into webhook_events (id, type, resource, data)
    select webhook_event_id(), 'user.created', 'user:' || n % ${shape.resources}::int, '{}'
      from generate_series(1, ${deliveries / shape.webhooks}::int) n`
  await sql`
    insert into webhook_deliveries (webhook_id, event_id, ordinal, resource, due_at)
    select w.id, e.id, e.ordinal, e.resource, now() from webhooks w cross join webhook_events e`
  figures['full'] = await measure()
  if (shape.resources === 1) {
    // Its first delivery waits for another attempt, and all others for it.
    await sql`
      update webhook_deliveries set due_at = now() + interval '1 hour'
       where ordinal = (select min(ordinal) from webhook_deliveries)`
    figures['full, the first one waits'] = await measure()
  }
  await sql`analyze`
  figures['analyzed'] = await measure()
  console.log(JSON.stringify(figures))
  await sql.end()
  await drop()
}
await reapAll()
process.exit(0)
