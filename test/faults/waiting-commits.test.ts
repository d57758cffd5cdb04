import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type PostgresServer, startPostgres } from '../harness/postgres-server.ts'
import { type Answer, type Api, api, type Person, register, startServer, type TestServer } from '../harness.ts'
import { until } from './support.ts'

const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }

describe.each(['bun', 'deno'] as const)('on %s, while the synchronous standby is away', (runtime) => {
  let postgres: PostgresServer
  let server: TestServer
  let admin: Sql
  let client: Api
  let ada: Person

  /** Commits wait for a standby of this name, which does not exist. The server has applied the setting once a commit waits. */
  const loseStandby = async () => {
    await admin`alter system set synchronous_standby_names = 'away'`
    await admin`select pg_reload_conf()`
    const probe = connectOnce(postgres.connection)
    const [row] = await probe<{ pid: number }[]>`select pg_backend_pid() as pid`
    const pid = row?.pid ?? 0
    for (let waits = false; !waits; ) {
      let done = false
      const committed = probe`select pg_logical_emit_message(true, 'probe', '')`.then(() => {
        done = true
      })
      await until(async () => {
        waits = (await admin`select from pg_stat_activity where pid = ${pid} and wait_event = 'SyncRep'`).length > 0
        return waits || done
      }, 'the commit of a probe waits or is done')
      if (waits) await admin`select pg_cancel_backend(${pid}::int)`
      await committed
    }
    await probe.end()
  }
  const regainStandby = async () => {
    await admin`alter system reset synchronous_standby_names`
    await admin`select pg_reload_conf()`
    const areWaiting = async () => (await admin`select from pg_stat_activity where wait_event = 'SyncRep'`).length > 0
    await until(async () => !(await areWaiting()), 'no commit waits')
  }
  const waiting = async (): Promise<number> => {
    const [row] = await admin<{ count: number }[]>`
      select count(*)::int from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'velro:write'`
    return row?.count ?? 0
  }
  /** Heartbeats commit several times a second. They pause while the backend that sends them is stopped, which must be idle. */
  const pauseHeartbeats = async (): Promise<() => void> => {
    for (;;) {
      const sender = () => admin<{ pid: number; state: string }[]>`
        select pid, state from pg_stat_activity where application_name = 'velro:bus-sender'`
      const [row] = await sender()
      if (row !== undefined) {
        process.kill(row.pid, 'SIGSTOP')
        if ((await sender())[0]?.state === 'idle') return () => void process.kill(row.pid, 'SIGCONT')
        process.kill(row.pid, 'SIGCONT')
      }
      await Bun.sleep(5)
    }
  }
  /**
   * Sends a change whose commit then waits for the standby. A commit of a background task may be first; the change is then
   * refused, and is sent again once that one is done.
   */
  const hold = async (send: () => Promise<Answer>): Promise<{ readonly held: Promise<Answer> }> => {
    for (let tries = 0; tries < 10; tries += 1) {
      const resumeHeartbeats = await pauseHeartbeats()
      try {
        await loseStandby()
        let code: string | undefined
        const held = send().then((answer) => {
          code = codeOf(answer)
          return answer
        })
        await until(async () => code !== undefined || (await waiting()) > 0, 'the commit waits for the standby')
        if (code === undefined) return { held }
        await regainStandby()
        expect(code).toBe('503 request.timeout')
      } finally {
        resumeHeartbeats()
      }
    }
    throw new Error('Other commits were always first')
  }
  const codeOf = ({ status, body }: Answer) => `${status} ${body.code ?? ''}`.trim()
  const byAda = () => ({ token: ada.token })
  const newProject = async (name: string): Promise<string> =>
    (await client.post('/api/v1/projects', { name }, byAda())).body.id
  const rename = (id: string, name: string) => client.patch(`/api/v1/projects/${id}`, { name }, byAda())
  const nameOf = async (id: string): Promise<string> => (await client.get(`/api/v1/projects/${id}`, byAda())).body.name

  beforeAll(async () => {
    postgres = await startPostgres()
    admin = connectOnce(postgres.connection)
    const { connection } = postgres
    server = await startServer({ runtime, connection, env: { REQUEST_TIMEOUT_MS: '4000' } })
    client = api(server.baseUrl)
    ada = await register(client)
  }, 60_000)
  afterAll(async () => {
    await regainStandby()
    await server?.stop()
    await admin?.end()
    await postgres?.stop()
  })

  test('a change whose commit waits is 503 request.outcome_unknown, and a later one is refused and not made', async () => {
    const [first, second] = [await newProject('first'), await newProject('second')]
    const { held } = await hold(() => rename(first, 'first, renamed'))
    try {
      // A commit counts as stuck after 1.5 s; the deadline of the first is 4 s.
      await Bun.sleep(1_600)
      expect(codeOf(await rename(second, 'second, renamed'))).toBe('503 request.timeout')
      const answer = await held
      expect(codeOf(answer)).toBe('503 request.outcome_unknown')
      expect(answer.headers.get('retry-after')).toBeNull()
    } finally {
      await regainStandby()
    }
    expect([await nameOf(first), await nameOf(second)]).toEqual(['first, renamed', 'second'])
  }, 30_000)

  test('a retry with the same Idempotency-Key is 503 request.outcome_unknown, and afterwards gets the response', async () => {
    const headers = { 'idempotency-key': 'kept' }
    const send = () => client.post('/api/v1/generations', order, { ...byAda(), headers })
    const { held } = await hold(send)
    try {
      expect(codeOf(await held)).toBe('503 request.outcome_unknown')
      expect(codeOf(await send())).toBe('503 request.outcome_unknown')
    } finally {
      await regainStandby()
    }
    const answers = [await send(), await send()]
    expect(answers.map(codeOf)).toEqual(['201', '201'])
    expect(answers[1]?.body).toEqual(answers[0]?.body)
    const { body } = await client.get('/api/v1/generations', byAda())
    expect(body.items).toHaveLength(1)
  }, 30_000)

  test('a connection that is lost during the commit is 503 request.outcome_unknown', async () => {
    const id = await newProject('third')
    const { held } = await hold(() => rename(id, 'third, renamed'))
    try {
      await admin`select pg_terminate_backend(pid) from pg_stat_activity
                  where wait_event = 'SyncRep' and application_name = 'velro:write'`
      expect(codeOf(await held)).toBe('503 request.outcome_unknown')
    } finally {
      await regainStandby()
    }
    expect(await nameOf(id)).toBe('third, renamed')
  }, 30_000)
})
