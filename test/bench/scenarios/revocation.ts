import { startRedis } from '../../harness/redis.ts'
import { newExternalDatabase } from '../databases.ts'
import { percentile, timeCalls } from '../latencies.ts'
import { checkPath, type Person, signUp } from '../people.ts'
import { onEnd, type Server, startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const instances = 3
const workers = 4
const rounds = 4
/** How long a revocation waits for a silent instance: two leases. */
const waitedForMs = 2_000

const call = async (url: string, { headers }: Person, method: 'POST' | 'PATCH', body: unknown): Promise<unknown> => {
  const response = await fetch(url, {
    method,
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${url} said ${response.status}: ${await response.text()}`)
  return response.json()
}

/** Narrows who may see a project and widens it again: every call changes what all instances have in memory. */
const toggle = (servers: readonly Server[], person: Person, projects: readonly string[]) => {
  const turns = projects.map(() => 0)
  return async (worker: number) => {
    const turn = turns[worker] ?? 0
    turns[worker] = turn + 1
    const visibility = turn % 2 === 0 ? 'public' : 'private'
    const url = servers[(worker + turn) % servers.length]?.url
    await call(`${url}/api/v1/projects/${projects[worker]}`, person, 'PATCH', { visibility })
  }
}

/** What a call that takes access away costs, by how many there are to hear of it and whether one of them is frozen. */
export const revocation: Scenario = async ({ seconds }) => {
  const redis = onEnd(await startRedis())
  const database = { ...(await newExternalDatabase()), REDIS_URL: redis.url, DB_CONNECTIONS: '24' }
  const servers: Server[] = []
  for (let count = 0; count < instances; count += 1) servers.push(await startVelro(database))
  const [first, ...others] = servers as [Server, ...Server[]]
  const frozen = others.at(-1) as Server
  const person = await signUp(first.url)
  const projects: string[] = []
  for (let worker = 0; worker < workers; worker += 1) {
    const made = (await call(`${first.url}/api/v1/projects`, person, 'POST', { name: 'Toggled' })) as { id: string }
    projects.push(made.id)
  }
  for (const { url } of servers) {
    for (const id of projects) {
      await call(url + checkPath, person, 'POST', { action: 'read', resource: { type: 'project', id } })
    }
  }

  const healthy: number[][] = []
  const withOneFrozen: number[][] = []
  const awake = servers.filter((server) => server !== frozen)
  for (let round = 0; round < rounds; round += 1) {
    healthy.push(await timeCalls(toggle(servers, person, projects), { workers, forMs: seconds * 1_000 }))
    process.kill(frozen.pid, 'SIGSTOP')
    try {
      withOneFrozen.push(await timeCalls(toggle(awake, person, projects), { workers, forMs: waitedForMs }))
    } finally {
      process.kill(frozen.pid, 'SIGCONT')
    }
    // Until its acknowledgements arrive again.
    await Bun.sleep(1_000)
  }
  const all = (fraction: number, runs: readonly number[][]) => runs.map((run) => percentile(run, fraction))
  return {
    about: `${workers} callers narrow and widen who sees a project, on ${instances} instances that all have it in memory`,
    sides: [],
    findings: [
      { what: 'P50, all healthy', unit: 'ms', values: all(0.5, healthy) },
      { what: 'P99, all healthy', unit: 'ms', values: all(0.99, healthy), target: { below: 50 } },
      { what: 'P50, one frozen', unit: 'ms', values: all(0.5, withOneFrozen) },
      { what: 'P99, one frozen', unit: 'ms', values: all(0.99, withOneFrozen), target: { below: 1_500 } },
    ],
  }
}
