import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { reapFolder } from '../harness/reaper.ts'
import { api, type Person, register, startApp, type TestConnection } from '../harness.ts'
import { findPostgres, startPostgres } from '../world/programs.ts'

/** Of Debian's packages postgresql-15 and postgresql-client-15. */
const folder = findPostgres(15)
const programs = folder !== undefined && existsSync(join(folder, 'pg_restore')) ? folder : undefined

const run = async (program: string, args: readonly string[]): Promise<void> => {
  const child = spawn(join(programs ?? '', program), args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (text) => {
    errors += text
  })
  child.stdout.resume()
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${errors}`)
}

describe.skipIf(programs === undefined)(
  'a database that pg_dump wrote and pg_restore reads (Debian packages postgresql-15, postgresql-client-15)',
  () => {
    let dumps: string
    let server: TestConnection
    let admin: Sql
    let owner: Person
    let member: Person
    let project: string

    const connectionTo = (database: string): TestConnection => ({ ...server, database })
    const args = (database: string) => ['-h', server.host, '-p', String(server.port), '-U', server.user, '-d', database]
    const fileOf = (name: string) => join(dumps, `${name}.dump`)

    beforeAll(async () => {
      dumps = await mkdtemp(join(tmpdir(), 'velro-restore-'))
      reapFolder(dumps)
      const { host, port, user } = await startPostgres(15, { jit: 'off' })
      server = { host, port, user, database: 'postgres' }
      admin = connectOnce(server)
      await admin`create database source`
      const sql = connectOnce(connectionTo('source'))
      await migrate(sql)
      const app = await startApp({ connection: connectionTo('source') })
      const client = api(app.baseUrl)
      owner = await register(client)
      member = await register(client)
      const post = async (path: string, body: object) =>
        (await client.post(`/api/v1${path}`, body, { token: owner.token })).body.id as string
      const team = await post('/teams', { name: 'T' })
      await sql`insert into team_members (team_id, user_id, role) values (${team}, ${member.id}, 'editor')`
      project = await post('/projects', { name: 'P', visibility: 'team-only' })
      await post('/projects', { name: 'Q' })
      await client.post(
        `/api/v1/projects/${project}/teams`,
        { team_id: team, access_level: 'write' },
        { token: owner.token },
      )
      for (let order = 0; order < 3; order += 1)
        await post('/generations', { model: 'local/procedural', prompt: 'a lighthouse', project_id: project })
      await app.close()
      await sql.end()
      await run('pg_dump', [...args('source'), '--schema-only', '-Fc', '-f', fileOf('schema')])
      await run('pg_dump', [...args('source'), '--data-only', '-Fc', '-f', fileOf('data')])
      await run('pg_dump', [...args('source'), '--data-only', '-Fp', '-f', fileOf('plain')])
    }, 60_000)
    afterAll(async () => {
      await admin?.end()
      await rm(dumps, { recursive: true, force: true })
    })

    const contentOf = async (database: string) => {
      const sql = connectOnce(connectionTo(database))
      const content: Record<string, unknown> = {}
      const tables = await sql<{ name: string }[]>`
      select tablename as name from pg_tables where schemaname = 'public' order by 1`
      for (const { name } of tables) {
        const [row] = await sql`select coalesce(jsonb_agg(t order by t::text), '[]') as rows from ${sql(name)} t`
        content[name] = row?.['rows']
      }
      expect(await findAccessDifferences(sql)).toEqual([])
      await sql.end()
      return content
    }

    const restore = async (database: string, file: string, ...options: string[]) => {
      await admin`create database ${admin(database)}`
      await run('pg_restore', [...args(database), '--exit-on-error', fileOf('schema')])
      await run('pg_restore', [...args(database), '--exit-on-error', '--data-only', ...options, fileOf(file)])
    }

    test('has the same rows after a data-only restore into a fresh schema with --disable-triggers', async () => {
      await restore('disabled', 'data', '--disable-triggers')
      const restored = await contentOf('disabled')
      expect(restored).toEqual(await contentOf('source'))
      expect(Object.keys(restored).length).toBeGreaterThan(15)
    })

    test('has the same rows after a plain data-only restore by psql, while triggers run', async () => {
      await admin`create database enabled`
      await run('pg_restore', [...args('enabled'), '--exit-on-error', fileOf('schema')])
      await run('psql', [...args('enabled'), '-q', '-v', 'ON_ERROR_STOP=1', '-f', fileOf('plain')])
      const [restored, source] = [await contentOf('enabled'), await contentOf('source')]
      // The restore is a change itself, and publishes events.
      for (const content of [restored, source])
        for (const name of ['access_events', 'event_positions']) delete content[name]
      expect(restored).toEqual(source)
      expect(source['credit_balances']).toHaveLength(2)
      expect(source['project_access']).toHaveLength(3)
    })

    test('publishes changes although the sequence of their events is behind the events that are stored', async () => {
      const sql = connectOnce(connectionTo('enabled'))
      await sql`select setval(pg_get_serial_sequence('access_events', 'id'), 1, false)`
      const stored = (await sql<{ id: string }[]>`select id from access_events`).map(({ id }) => id)
      const [empty] = await sql<{ id: string }[]>`select id from record_access_event('', true)`
      await sql`select setval(pg_get_serial_sequence('access_events', 'id'), 1, false)`
      await sql`update projects set visibility = 'public' where id = ${project}`
      const all = await sql<{ id: string; keys: string[] }[]>`select id, keys from access_events order by ordinal`
      expect(stored.length).toBeGreaterThan(1)
      expect(stored).not.toContain(empty?.id ?? '')
      expect(all).toHaveLength(stored.length + 2)
      expect(all.find(({ id }) => id !== empty?.id && !stored.includes(id))?.keys).toContain(`project:${project}`)
      await sql`select setval(pg_get_serial_sequence('access_events', 'id'), 1, false)`
      await sql.end()
    })

    test('starts, and members keep their access, and owners their credits', async () => {
      const app = await startApp({ connection: connectionTo('enabled') })
      const client = api(app.baseUrl)
      const { body } = await client.post('/api/v1/auth/login', { email: member.email, password: member.password })
      const question = { action: 'write', resource: { type: 'project', id: project } }
      const check = await client.post('/api/v1/authorization/check', question, { token: body.access_token })
      expect(check.body.allowed).toBe(true)
      const again = await client.post('/api/v1/auth/login', { email: owner.email, password: owner.password })
      const sql = connectOnce(connectionTo('source'))
      const [row] = await sql`select balance::int as balance from credit_balances where user_id = ${owner.id}`
      await sql.end()
      const credits = await client.get('/api/v1/credits/balance', { token: again.body.access_token })
      expect(credits.body.balance).toBe(row?.['balance'])
      await app.close()
    })
  },
)
