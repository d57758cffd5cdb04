import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { chmod, mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { type Api, api, type Person, register, startServer, type TestServer } from '../harness.ts'
import { until } from './support.ts'

describe('a killed (-9) embedded Postgres', () => {
  let directory: string
  let server: TestServer
  let client: Api
  let person: Person
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'velro-embedded-'))
    await chmod(directory, 0o755)
    reapFolder(directory)
    reapCluster(join(directory, 'postgres'))
    server = await startServer({
      runtime: 'bun',
      // Unused: an empty DATABASE_URL selects the embedded Postgres.
      connection: { host: '', port: 0, user: '', database: '' },
      env: { DATABASE_URL: '', DATA_DIR: directory, REQUEST_TIMEOUT_MS: '2000', LOG_LEVEL: 'debug' },
      readyWithinMs: 60_000,
    })
    client = api(server.baseUrl)
    person = await register(client)
  })
  afterAll(() => server.stop())

  const postmaster = async () =>
    Number((await readFile(join(directory, 'postgres/data/postmaster.pid'), 'utf8')).split('\n')[0])
  const list = () => client.get('/api/v1/projects', { token: person.token })

  test('causes 503 database.unavailable and is restarted within 5 s with all acknowledged writes', async () => {
    const { body } = await client.post('/api/v1/projects', { name: 'Acknowledged' }, { token: person.token })
    const before = await postmaster()
    process.kill(before, 'SIGKILL')
    const seen = new Set<string>()
    const tookMs = await until(async () => {
      const answer = await list()
      if (answer.status !== 200) seen.add(`${answer.status} ${answer.body.code}`)
      const after = await postmaster().catch(() => before)
      return answer.status === 200 && after !== before
    }, 'requests succeed on a new postmaster')
    expect(tookMs).toBeLessThan(5_000)
    expect([...seen]).toEqual(['503 database.unavailable'])
    expect((await list()).body.items.map(({ id }: { id: string }) => id)).toEqual([body.id])
    expect((await client.get('/ready')).status).toBe(200)
    expect(server.process.exitCode).toBeNull()
  })
})
