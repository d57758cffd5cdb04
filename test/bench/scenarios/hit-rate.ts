import { newRedis, prepareCrowd, sendCrowd, size } from '../crowd.ts'
import type { Finding } from '../report.ts'
import { startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const seconds = 60

/**
 * A server and a Redis with empty caches, a crowd that asks, and one request in a hundred that changes something: the share
 * of decisions made without Postgres, and the number of stale ones.
 */
export const hitRate: Scenario = async () => {
  const crowd = await prepareCrowd()
  const findings: Finding[] = []
  for (const [name, question, accessChanges, target] of [
    ['people at work', crowd.atWork, 0.2, { atLeast: 0.95 }],
    ['the same, half of the changes about access', crowd.atWork, 0.5, undefined],
    ['random user and resource', crowd.atRandom, 0.2, undefined],
  ] as const) {
    const velro = await startVelro({ ...crowd.env, ...(await newRedis()) })
    const outcome = await sendCrowd({ url: velro.url, crowd, question, seconds, writes: 0.01, accessChanges })
    await velro.stop()
    await crowd.sql`truncate access_heat`
    await crowd.sql`update projects set visibility = 'team-only' where id = any (${crowd.writers.map((each) => each.projectId)})`
    findings.push(
      {
        what: `${name}: not from Postgres, ${seconds} s`,
        unit: 'share',
        values: [outcome.share],
        ...(target && { target }),
      },
      { what: '  in the last 10 s', unit: 'share', values: [outcome.lastShare], ...(target && { target }) },
      { what: '  decisions', unit: 'count', values: [outcome.decisions] },
      { what: '  changes', unit: 'count', values: [outcome.writes] },
      { what: '  answers that had to be no', unit: 'count', values: [outcome.judged] },
      { what: '  of them yes', unit: 'count', values: [outcome.staleAllows], target: { below: 1 } },
    )
  }
  return {
    about: `a cold server with an empty Redis, ${size.users} people, ${size.generations} generations, 80/20, 1 % changes`,
    sides: [],
    findings,
  }
}
