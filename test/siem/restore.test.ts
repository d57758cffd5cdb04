import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connectionEnvironment, connectOnce } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { api, type Person, register, startServer, type TestConnection, testSecret } from '../harness.ts'
import { findPostgres, startPostgres } from '../world/programs.ts'

/** Of Debian's packages postgresql-15 and postgresql-client-15. */
const folder = findPostgres(15)
const programs = folder !== undefined && existsSync(join(folder, 'pg_restore')) ? folder : undefined
const verifyScript = fileURLToPath(new URL('../../src/boot/audit-verify.ts', import.meta.url))
const execute = promisify(execFile)

type Sent = { readonly uid: string; readonly code: string; readonly sequence: number }

describe.skipIf(programs === undefined)(
  'a database restored on another server, from a dump that has events which were not sent (Debian packages postgresql-15, postgresql-client-15)',
  () => {
    let source: TestConnection
    let copy: TestConnection
    let dumps: string
    let receiver: Server
    let sent: Sent[] = []
    let port = 0

    beforeAll(async () => {
      dumps = await mkdtemp(join(tmpdir(), 'velro-dump-'))
      reapFolder(dumps)
      const [one, other] = await Promise.all([startPostgres(15, { jit: 'off' }), startPostgres(15, { jit: 'off' })])
      const of = ({ host, port: at, user }: TestConnection) => ({ host, port: at, user, database: 'velro' })
      source = of(one)
      copy = of(other)
      for (const server of [one, other]) {
        const admin = connectOnce({ ...of(server), database: 'postgres' })
        await admin`create database velro`
        await admin.end()
      }
      receiver = createServer((request, response) => {
        let body = ''
        request.setEncoding('utf8')
        request.on('data', (chunk) => {
          body += chunk
        })
        request.on('end', () => {
          for (const { metadata } of body
            .trimEnd()
            .split('\n')
            .map((line) => JSON.parse(line)))
            sent.push({ uid: metadata.uid, code: metadata.event_code, sequence: metadata.sequence })
          response.writeHead(200).end()
        })
      })
      await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve))
      port = (receiver.address() as { port: number }).port
    }, 60_000)
    afterAll(async () => {
      receiver?.close()
      await rm(dumps, { recursive: true, force: true })
    })

    const start = (connection: TestConnection) =>
      startServer({ runtime: 'bun', connection, env: { SIEM_URL: `http://127.0.0.1:${port}/in` } })
    const uids = () => sent.map(({ uid }) => uid)

    test('sends these events once, links on, publishes changes, and says in log and audit log that it is a copy', async () => {
      const sql = connectOnce(source)
      // As a server that has run for long: the other one has lower transaction ids.
      const original = await start(source)
      await sql.unsafe(`do $$ begin for i in 1..2000 loop perform pg_current_xact_id(); commit; end loop; end $$`)
      const client = api(original.baseUrl)
      const owner: Person = await register(client)
      const member: Person = await register(client)
      const as = { token: owner.token }
      const { body: team } = await client.post('/api/v1/teams', { name: 'T' }, as)
      await sql`insert into team_members (team_id, user_id, role) values (${team.id}, ${member.id}, 'editor')`
      const { body: project } = await client.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, as)
      const grants = `/api/v1/projects/${project.id}/teams`
      await client.post(grants, { team_id: team.id, access_level: 'write' }, as)
      await until(() => sent.some(({ code }) => code === 'grant.created'), 'the receiver has the first events')
      const before = uids()
      // A transaction that stays open holds the chain up, so what comes now is neither linked nor sent.
      const slow = connectOnce(source)
      const dumped = Promise.withResolvers<void>()
      const holding = Promise.withResolvers<void>()
      const open = slow.begin(async (tx) => {
        await tx`select pg_current_xact_id()`
        holding.resolve()
        await dumped.promise
      })
      await holding.promise
      await client.patch(`/api/v1/projects/${project.id}`, { name: 'R' }, as)
      const args = ({ host, port: at, user }: TestConnection) => [
        '-h',
        host,
        '-p',
        String(at),
        '-U',
        user,
        '-d',
        'velro',
      ]
      await execute(join(programs ?? '', 'pg_dump'), [...args(source), '-Fc', '-f', join(dumps, 'all')])
      dumped.resolve()
      await open
      await until(() => sent.some(({ code }) => code === 'project.changed'), 'the original sends it')
      await original.stop()
      expect(new Set(uids()).size).toBe(sent.length)
      const ofOriginal = sent
      sent = []

      await execute(join(programs ?? '', 'pg_restore'), [...args(copy), '--exit-on-error', join(dumps, 'all')])
      // A restore of a large database takes longer than the 30 s after which another instance sends.
      const restoredSql = connectOnce(copy)
      await restoredSql`update siem_sinks set lease_until = clock_timestamp()`
      await restoredSql.end()
      const restored = await start(copy)
      const there = api(restored.baseUrl)
      await until(() => sent.some(({ code }) => code === 'audit.database_moved'), 'the receiver learns of the copy')
      // The cursor came with the dump: nothing is sent anew that was sent before it, and nothing is left out.
      expect(before.filter((uid) => uids().includes(uid))).toEqual([])
      const changed = ofOriginal.find(({ code }) => code === 'project.changed')
      expect(uids().filter((uid) => uid === changed?.uid)).toHaveLength(1)
      expect(sent.map(({ sequence }) => sequence)).toEqual(sent.map((_, at) => before.length + 1 + at))
      expect(restored.output()).toContain('audit.database_moved')

      const { body: login } = await there.post('/api/v1/auth/login', { email: member.email, password: member.password })
      const check = async () => {
        const question = { action: 'write', resource: { type: 'project', id: project.id } }
        return (await there.post('/api/v1/authorization/check', question, { token: login.access_token })).body.allowed
      }
      expect(await check()).toBe(true)
      const { body: again } = await there.post('/api/v1/auth/login', { email: owner.email, password: owner.password })
      const withdrawn = await there.delete(`${grants}/${team.id}`, { token: again.access_token })
      expect(withdrawn.status).toBe(204)
      expect(await check()).toBe(false)
      await until(() => sent.some(({ code }) => code === 'grant.withdrawn'), 'the copy sends its own events')
      expect(new Set(uids()).size).toBe(sent.length)
      await restored.stop()
      const env = { ...process.env, ...connectionEnvironment(copy), SECRET: testSecret, LOG_LEVEL: 'fatal' }
      const { stdout } = await execute(process.execPath, [verifyScript], { env })
      expect(stdout).toContain('The audit log is intact')
      await slow.end()
      await sql.end()
    }, 60_000)
  },
)
