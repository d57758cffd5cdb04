import { createViewStore } from '../../../src/access/warm-up/materialized-view-store.ts'
import { createRandom } from '../../access/random.ts'
import { startApp, type TestConnection } from '../../harness.ts'
import { type Crowd, newRedis, password, prepareCrowd, sendCrowd } from '../crowd.ts'
import { connectionOf } from '../databases.ts'
import { checkPath, loginPath } from '../people.ts'
import type { Finding } from '../report.ts'
import { onEnd, startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const heatingSeconds = 60
const coldSeconds = 10
const people = 40
const firstRequests = 20

const send = async (url: string, body: unknown, token?: string) => {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${url} said ${response.status}: ${await response.text()}`)
  return response.json() as Promise<Record<string, unknown>>
}

/** The share of a person's first requests after a sign-in that send no statement, on a server that knows nothing. */
const afterLogin = async ({ env, sql, atWork }: Crowd, warmUp: boolean, pauseMs: number): Promise<number> => {
  let statements = 0
  const app = await startApp({
    connection: connectionOf(env) as TestConnection,
    warmUp,
    config: { secret: env['SECRET'] ?? '' },
    onStatement: () => {
      statements += 1
    },
  })
  onEnd({ stop: app.close })
  const random = createRandom(2)
  const asked = new Map<string, string[]>()
  while (asked.size < people || [...asked.values()].some((ids) => ids.length < firstRequests)) {
    const { userId, generationId } = atWork(random)
    if (asked.size < people || asked.has(userId)) asked.set(userId, [...(asked.get(userId) ?? []), generationId])
  }
  let without = 0
  for (const [userId, ids] of asked) {
    const [row] = await sql<{ email: string }[]>`select email from users where id = ${userId}`
    const { access_token } = await send(app.baseUrl + loginPath, { email: row?.email, password })
    await Bun.sleep(pauseMs)
    for (const id of ids.slice(0, firstRequests)) {
      const before = statements
      const question = { action: 'read', resource: { type: 'generation', id } }
      await send(app.baseUrl + checkPath, question, access_token as string)
      if (statements === before) without += 1
    }
  }
  await app.close()
  return without / (people * firstRequests)
}

const setFlag = ({ sql }: Crowd, enabled: boolean) => sql`
  insert into flags (name, enabled) values ('warm_up', ${enabled})
      on conflict (name) do update set enabled = excluded.enabled`

/**
 * What fetching ahead is good for: the first requests after a sign-in, and the first seconds of an instance that starts
 * where others have worked, with their Redis, with an empty one and without; each with it and without, twice, in such an
 * order that neither has the other's benefit.
 */
export const warmUp: Scenario = async () => {
  const crowd = await prepareCrowd()
  const used = await newRedis()
  const load = { crowd, question: crowd.atWork, writes: 0 }
  const afterSignIn = async (when: string, pauseMs: number): Promise<Finding[]> => {
    const shares: Record<'on' | 'off', number[]> = { on: [], off: [] }
    for (const side of ['off', 'on', 'on', 'off'] as const) {
      shares[side].push(await afterLogin(crowd, side === 'on', pauseMs))
    }
    const what = `first ${firstRequests} requests, ${pauseMs} ms after a sign-in, ${when}`
    return [
      { what, unit: 'share', values: shares.on },
      { what: '  without warm-up', unit: 'share', values: shares.off },
    ]
  }
  const findings = [...(await afterSignIn('nothing known of them', 100)), ...(await afterSignIn('the same', 0))]

  const first = await startVelro({ ...crowd.env, ...used })
  await sendCrowd({ ...load, url: first.url, seconds: heatingSeconds })
  await first.stop()
  // What the schedule does every five minutes.
  await createViewStore(crowd.sql).refresh('hottest_pairs', 0)
  findings.push(...(await afterSignIn(`after ${heatingSeconds} s of heat`, 100)))

  let seed = 1
  for (const [name, redisFor, target] of [
    ['its Redis', async () => used, { atLeast: 0.9 }],
    ['an empty Redis', newRedis, undefined],
    ['no Redis', async () => ({}), undefined],
  ] as const) {
    const shares: Record<'on' | 'off', number[]> = { on: [], off: [] }
    for (const side of ['off', 'on', 'on', 'off'] as const) {
      await setFlag(crowd, side === 'on')
      const velro = await startVelro({ ...crowd.env, ...(await redisFor()) })
      seed += 1
      const { share } = await sendCrowd({ ...load, url: velro.url, seconds: coldSeconds, seed })
      await velro.stop()
      shares[side].push(share)
    }
    findings.push(
      {
        what: `first ${coldSeconds} s of an instance, ${name}`,
        unit: 'share',
        values: shares.on,
        ...(target && { target }),
      },
      { what: '  without warm-up', unit: 'share', values: shares.off },
    )
  }
  return { about: 'share of decisions that Postgres was not asked for', sides: [], findings }
}
