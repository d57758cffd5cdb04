import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { chmod, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { type Api, api, type Person, register, startServer, type TestServer } from '../harness.ts'
import { until } from './support.ts'

/** Longer than a lease, so that stale reads happen; short enough to see them end. */
const limitS = 3

describe('while Postgres is down', () => {
  let directory: string
  let postgres: EmbeddedPostgres
  let server: TestServer
  let client: Api
  let person: Person
  let known: { type: 'project'; id: string }
  let link: string
  /** A token whose session has ended. */
  let endedToken: string

  const startPostgres = () =>
    startEmbeddedPostgres({ directory, settings: { fsync: 'off', max_connections: '60' }, supervise: false })
  const ask = (route: 'check' | 'explain', action: string, id = known.id) =>
    client.post(
      `/api/v1/authorization/${route}`,
      { action, resource: { type: 'project', id } },
      { token: person.token },
    )

  /** A signed link to a new picture of the user. */
  const makeLink = async ({ token }: Person): Promise<string> => {
    const asked = { model: 'local/procedural', prompt: 'p', parameters: { width: 64, height: 64 } }
    const { id } = (await client.post('/api/v1/generations', asked, { token })).body
    const list = async () => (await client.get(`/api/v1/generations/${id}/media`, { token })).body.items
    await until(async () => (await list()).length > 0, 'the picture is stored')
    const media = `/api/v1/media/${(await list())[0].id}`
    const { url } = (await client.post(`${media}/links`, {}, { token })).body
    return url.slice(server.baseUrl.length)
  }

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'velro-stale-reads-'))
    await chmod(directory, 0o755)
    reapCluster(directory)
    postgres = await startPostgres()
    reapFolder(postgres.connection.host)
    server = await startServer({
      runtime: 'bun',
      connection: postgres.connection,
      env: { EMERGENCY_READ_SECONDS: String(limitS), L1_TTL_SECONDS: '2', LOG_LEVEL: 'fatal' },
    })
    client = api(server.baseUrl)
    link = await makeLink(await register(client))
    person = await register(client)
    const { body } = await client.post('/api/v1/projects', { name: 'Kept' }, { token: person.token })
    known = { type: 'project', id: body.id }
    endedToken = (await register(client)).token
    await client.post('/api/v1/auth/logout', undefined, { token: endedToken })
  })
  afterAll(async () => {
    await server?.stop()
    await postgres?.stop()
  })

  test('checks of read and download are answered from memory for EMERGENCY_READ_SECONDS and marked with a header, refusals included; everything else is 503; service resumes once it is back', async () => {
    const before = await ask('check', 'read')
    expect([before.status, before.body, before.headers.get('velro-degraded')]).toEqual([
      200,
      { allowed: true, reason: before.body.reason },
      null,
    ])
    // Each is refused because of a fact: the session has ended, the user is no operator, is no service, is not this user.
    const question = { action: 'read', resource: known }
    const evaluation = { subject: { type: 'user', id: known.id }, action: { name: 'read' }, resource: known }
    const about = { ...question, user_id: known.id }
    const refuseEach = async () => [
      await client.post('/api/v1/authorization/check', question, { token: endedToken }),
      await client.get('/api/v1/performance/metrics', { token: person.token }),
      await client.post('/access/v1/evaluation', evaluation, { token: person.token }),
      await client.post('/api/v1/authorization/check', about, { token: person.token }),
    ]
    const refusals = async () =>
      (await refuseEach()).map(({ body, headers }) => [body.code, headers.get('velro-degraded')])
    const refused = (mark: string | null) =>
      ['identity.not_signed_in', 'access.admins_only', 'access.services_only', 'authorization.not_about_others'].map(
        (code) => [code, mark],
      )
    expect(await refusals()).toEqual(refused(null))
    // It must have been connected for long enough to know that no other instance runs.
    await Bun.sleep(2_500)
    expect(await refusals()).toEqual(refused(null))
    await postgres.stop()

    const isMarked = async () => {
      const { status, headers } = await ask('check', 'read')
      return status === 200 && headers.get('velro-degraded') === 'stale-reads'
    }
    const startedMs = performance.now()
    await until(isMarked, 'checks are marked with the header', 3_000)
    for (const [route, action, status] of [
      ['check', 'read', 200],
      ['check', 'download', 200],
      ['explain', 'read', 200],
      ['check', 'write', 503],
      ['check', 'admin', 503],
    ] as const) {
      const answer = await ask(route, action)
      expect([route, action, answer.status]).toEqual([route, action, status])
      const mark = status === 200 ? 'stale-reads' : null
      expect([answer.headers.get('velro-degraded'), answer.body.degraded ?? null]).toEqual([mark, mark])
      if (status === 503) expect(answer.body.code).toBe('database.unavailable')
    }
    expect(await refusals()).toEqual(refused('stale-reads'))
    // A valid link needs a row from Postgres: 503, not refused. A forged one is refused without it.
    const opened = await client.get(link)
    expect([opened.status, opened.body.code]).toEqual([503, 'database.unavailable'])
    expect((await client.get(`${link}x`)).body.code).toBe('media.link_refused')
    expect((await ask('check', 'read', '01900000-0000-7000-8000-000000000000')).status).toBe(503)
    expect((await client.patch('/api/v1/auth/me', { display_name: 'x' }, { token: person.token })).status).toBe(503)

    await until(async () => (await ask('check', 'read')).status === 503, 'stale reads end', (limitS + 3) * 1_000)
    // The lease and then the configured time.
    expect(performance.now() - startedMs).toBeGreaterThan(limitS * 1_000 - 500)

    postgres = await startPostgres()
    await until(
      async () => {
        const { status, headers } = await ask('check', 'write')
        return status === 200 && headers.get('velro-degraded') === null
      },
      'service resumes',
      8_000,
    )
    expect((await client.get(link)).status).toBe(200)
  }, 40_000)
})
