/**
 * 171 accounts registered from one address where a paid provider is configured: how many of them have welcome credits, at
 * once and after an operator has verified every e-mail address. The first round gives the credits at registration, to all.
 * `bun test/faults/welcome-credits.ts [bun|deno]`
 */
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, type Person, type Runtime, register, startServer } from '../harness.ts'

const accounts = 171
const runtime: Runtime = process.argv[2] === 'deno' ? 'deno' : 'bun'

for (const [after, perAddress] of [
  ['registration', '0'],
  ['verification', ''],
] as const) {
  const server = await startServer({
    runtime,
    env: {
      FAL_KEY: 'key',
      JOB_CONCURRENCY: '0',
      WELCOME_CREDITS_AFTER: after,
      WELCOME_CREDITS_PER_ADDRESS: perAddress,
    },
  })
  const sql = connectOnce(server.connection)
  const client = api(server.baseUrl)
  const operator = await register(client)
  await sql`update users set role = 'admin' where id = ${operator.id}`
  const people: Person[] = []
  while (people.length < accounts)
    people.push(...(await Promise.all(Array.from({ length: 9 }, () => register(client)))))
  const credited = async () => {
    const [row] = await sql<{ accounts: number; credits: number }[]>`
      select count(*)::int as accounts, coalesce(sum(amount), 0)::int as credits from credit_ledger where kind = 'welcome'`
    return row
  }
  const atOnce = await credited()
  for (const { id } of people)
    await client.patch(`/api/v1/users/${id}`, { email_verified: true }, { token: operator.token })
  console.log(JSON.stringify({ runtime, after, registered: people.length, atOnce, verified: await credited() }))
  await sql.end()
  await server.stop()
}
await reapAll()
process.exit(0)
