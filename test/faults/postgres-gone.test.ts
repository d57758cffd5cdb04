import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { chmod, mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { type Answer, api, type Person, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { until } from './support.ts'

const deadlineMs = 2_000
/** Slack for a busy machine. */
const slackMs = 1_000
const recoveryMs = 5_000
const runtimes: readonly Runtime[] = ['bun', 'deno']

type Running = TestServer & { person: Person; project: string }

const refusal = ({ status, body }: Answer) => `${status} ${body?.code}`

const childrenOf = async (pid: number): Promise<number[]> =>
  (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter(Boolean).map(Number)

describe('a Postgres that stops answering', () => {
  let directory: string
  let postgres: EmbeddedPostgres
  const servers = new Map<Runtime, Running>()

  const startPostgres = () =>
    startEmbeddedPostgres({ directory, settings: { fsync: 'off', max_connections: '80' }, supervise: false })

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'velro-gone-'))
    await chmod(directory, 0o755)
    reapCluster(directory)
    postgres = await startPostgres()
    reapFolder(postgres.connection.host)
    const env = { REQUEST_TIMEOUT_MS: String(deadlineMs), DB_CONNECTIONS: '24', LOG_LEVEL: 'fatal' }
    // In sequence: first-start.test.ts covers two starts at once on an empty database.
    for (const runtime of runtimes) {
      const server = await startServer({ runtime, connection: postgres.connection, env })
      const client = api(server.baseUrl)
      const person = await register(client)
      const { body } = await client.post('/api/v1/projects', { name: 'Kept' }, { token: person.token })
      servers.set(runtime, { ...server, person, project: body.id })
    }
  })
  afterAll(async () => {
    await Promise.all([...servers.values()].map((server) => server.stop()))
    await postgres.stop()
  })

  const serverOn = (runtime: Runtime) => servers.get(runtime) as Running
  /** One request of each kind that needs the database. */
  const requestsOf = ({ baseUrl, person: { token, email, password }, project }: Running) => {
    const client = api(baseUrl)
    return [
      () => client.post('/api/v1/auth/login', { email, password }),
      () => client.post('/api/v1/auth/refresh', { refresh_token: 'A'.repeat(43) }),
      () => client.get('/api/v1/projects', { token }),
      () => client.patch(`/api/v1/projects/${project}`, { name: 'Changed' }, { token }),
      () => client.post('/api/v1/generations', { model: 'local/procedural', prompt: 'p' }, { token }),
    ]
  }
  const timed = async (ask: () => Promise<Answer>) => {
    const startedMs = performance.now()
    const answer = await ask()
    return { answer, ms: performance.now() - startedMs }
  }
  const isWell = async (server: Running) => {
    const ready = await api(server.baseUrl).get('/ready')
    const answers = ready.status === 200 ? await Promise.all(requestsOf(server).map((ask) => ask())) : []
    // A login, a list and a change: 200, 401 and 201, and nothing of the kind of 503.
    return ready.status === 200 && answers.every(({ status }) => status < 500)
  }

  const expectOutage = async (server: Running, codes: readonly string[], withinMs = deadlineMs + slackMs) => {
    const answers = await Promise.all(requestsOf(server).flatMap((ask) => Array.from({ length: 5 }, () => timed(ask))))
    for (const [index, { answer, ms }] of answers.entries()) {
      // The order is a change that takes no access away: once the breaker is open, the mode of the instance refuses it.
      const expected = index < answers.length - 5 ? codes : [...codes, 'mode.read_only']
      expect(expected.map((code) => `503 ${code}`)).toContain(refusal(answer))
      expect(answer.headers.get('content-type')).toBe('application/problem+json')
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
      expect(ms).toBeLessThan(withinMs)
      expect(JSON.stringify(answer.body)).not.toMatch(/ECONN|sock|postgres|velro-/i)
    }
    const { answer: health, ms } = await timed(() => api(server.baseUrl).get('/health'))
    expect([health.status, health.body]).toEqual([200, { status: 'alive' }])
    expect(ms).toBeLessThan(slackMs)
    const ready = await timed(() => api(server.baseUrl).get('/ready'))
    expect(ready.answer.status).toBe(503)
    expect(ready.answer.body).toEqual({ status: 'not_ready', reasons: ['database.unavailable'] })
    expect(ready.ms).toBeLessThan(withinMs)
  }

  const until503 = async (ask: () => Promise<Answer>): Promise<Answer> => {
    let answer = await ask()
    await until(async () => {
      answer = await ask()
      return answer.status === 503
    }, 'a 503')
    return answer
  }

  test('because it is killed (-9) causes an immediate 503 database.unavailable; the server stays alive, is not ready, and recovers within 5 s of its return', async () => {
    for (const runtime of runtimes) {
      await until(() => isWell(serverOn(runtime)), `${runtime} is well`)
      const { baseUrl, person } = serverOn(runtime)
      expect((await api(baseUrl).get('/api/v1/auth/me', { token: person.token })).status).toBe(200)
    }
    process.kill(postgres.pid, 'SIGKILL')
    await until(async () => (await api(serverOn('bun').baseUrl).get('/ready')).status === 503, 'the end of Postgres')
    await Promise.all(runtimes.map((runtime) => expectOutage(serverOn(runtime), ['database.unavailable'])))
    // Memory knows one's own account, and answers about it until its lease is over.
    for (const { baseUrl, person } of runtimes.map(serverOn)) {
      const me = () => api(baseUrl).get('/api/v1/auth/me', { token: person.token })
      expect((await until503(me)).body.code).toBe('database.unavailable')
    }
    // Not only at first: a pool that lost its server waits longer and longer.
    await Promise.all(runtimes.map((runtime) => expectOutage(serverOn(runtime), ['database.unavailable'])))

    await postgres.stop()
    postgres = await startPostgres()
    const tookMs = await Promise.all(
      runtimes.map((runtime) => until(() => isWell(serverOn(runtime)), `${runtime} is well again`)),
    )
    expect(Math.max(...tookMs)).toBeLessThan(recoveryMs)
    for (const runtime of runtimes) {
      const { process: child, baseUrl, person, project } = serverOn(runtime)
      expect(child.exitCode).toBeNull()
      const kept = await api(baseUrl).get(`/api/v1/projects/${project}`, { token: person.token })
      expect([kept.status, kept.body.owner_id]).toEqual([200, person.id])
    }
  })

  test('because it is frozen causes 503 by the deadline of each request, and at once when the breaker has opened; the server recovers when it thaws', async () => {
    for (const runtime of runtimes) await until(() => isWell(serverOn(runtime)), `${runtime} is well`)
    const pids = [postgres.pid, ...(await childrenOf(postgres.pid))]
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    try {
      const codes = ['database.unavailable', 'request.timeout', 'server.overloaded']
      await Promise.all(runtimes.map((runtime) => expectOutage(serverOn(runtime), codes)))
      await Promise.all(runtimes.map((runtime) => expectOutage(serverOn(runtime), ['database.unavailable'], slackMs)))
    } finally {
      for (const pid of pids) process.kill(pid, 'SIGCONT')
    }
    const tookMs = await Promise.all(
      runtimes.map((runtime) => until(() => isWell(serverOn(runtime)), `${runtime} is well again`)),
    )
    expect(Math.max(...tookMs)).toBeLessThan(recoveryMs)
  })
})
