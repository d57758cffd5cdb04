import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import { connect, createServer, type Socket } from 'node:net'
import { systemClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import {
  type Answer,
  type Api,
  api,
  type Person,
  register,
  startApp,
  type TestApp,
  type TestConnection,
} from '../harness.ts'
import { until } from './support.ts'

/** A proxy to Postgres that can be cut for good. */
const startProxy = async ({ host, port, user, database }: TestConnection) => {
  const sockets = new Set<Socket>()
  let cut = false
  const proxy = createServer((client) => {
    if (cut) return void client.destroy()
    const server = connect(`${host}/.s.PGSQL.${port}`)
    client.pipe(server).pipe(client)
    for (const socket of [client, server]) {
      sockets.add(socket)
      socket
        .on('error', () => {})
        .on('close', () => {
          client.destroy()
          server.destroy()
        })
    }
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const { port: own } = proxy.address() as { port: number }
  return {
    url: `postgres://${user}@127.0.0.1:${own}/${database}`,
    cut: () => {
      cut = true
      for (const socket of sockets) socket.destroy()
    },
    close: () => proxy.close(),
  }
}

const askFor = (client: Api, { token }: Person, id: string): Promise<Answer> =>
  client.post('/api/v1/authorization/check', { action: 'read', resource: { type: 'project', id } }, { token })

describe('one lost connection to a healthy Postgres', () => {
  let app: TestApp
  let admin: Sql
  let locker: Sql

  /**
   * Terminates one connection on which the decisions that `begin` starts are waiting. Resolves to their result after the locks
   * are released.
   */
  const endOneUnder = async <T>(begin: () => T): Promise<Awaited<T>> => {
    let begun: T | undefined
    await locker.begin(async (tx) => {
      await tx`lock table media_objects in access exclusive mode`
      begun = begin()
      let pid: number | undefined
      await until(async () => {
        const [row] = await admin<{ pid: number }[]>`
          select pid from pg_stat_activity
           where datname = current_database() and application_name = 'velro:auth' and wait_event_type = 'Lock'`
        pid = row?.pid
        return pid !== undefined
      }, 'a decision is waiting')
      await admin`select pg_terminate_backend(${pid as number}::int)`
      await until(
        async () => (await admin`select from pg_stat_activity where pid = ${pid as number}`).length === 0,
        'the connection is terminated',
      )
    })
    return await (begun as T)
  }

  beforeAll(async () => {
    app = await startApp()
    admin = connectOnce(app.connection)
    locker = connectOnce(app.connection)
    await Promise.all([app.services.database.warm(), admin`select 1`, locker`select 1`])
  })
  afterAll(async () => {
    await Promise.all([admin?.end(), locker?.end()])
    await app?.close()
  })

  test('fails no authorization check', async () => {
    const client = api(app.baseUrl)
    const ada = await register(client)
    await app.leased()
    const answers = await endOneUnder(() =>
      Promise.all(Array.from({ length: 10 }, () => askFor(client, ada, randomUUID()))),
    )
    expect(answers.map(({ status, body }) => [status, body.allowed])).toEqual(Array(10).fill([200, false]))
  })

  test('never causes a stale answer on an instance without a lease', async () => {
    const proxy = await startProxy(app.connection)
    const deaf = await startApp({ connection: app.connection, config: { databaseBusUrl: proxy.url } })
    try {
      const [atDeaf, client] = [api(deaf.baseUrl), api(app.baseUrl)]
      const [ada, bob, eve] = [await register(client), await register(client), await register(client)]
      const byAda = { token: ada.token }
      const shown = { name: 'Lab', visibility: 'team-only' }
      const { id: project } = (await client.post('/api/v1/projects', shown, byAda)).body
      const { id: team } = (await client.post('/api/v1/teams', { name: 'Crew' }, byAda)).body
      await admin`insert into team_members (team_id, user_id, role) values (${team}, ${bob.id}, 'editor')`
      await client.post(`/api/v1/projects/${project}/teams`, { team_id: team, access_level: 'write' }, byAda)
      const bobAsks = async () => {
        const { status, body, headers } = await askFor(atDeaf, bob, project)
        return [status, body.allowed, headers.get('velro-degraded')]
      }
      await deaf.leased()
      expect(await bobAsks()).toEqual([200, true, null])

      proxy.cut()
      const { lease } = deaf.services.caches.bus
      await until(() => systemClock.monotonic() >= lease.untilMs, 'the lease has expired')
      expect((await client.delete(`/api/v1/teams/${team}/members/${bob.id}`, byAda)).status).toBe(204)

      const { status, body } = await endOneUnder(() => askFor(atDeaf, eve, randomUUID()))
      expect([status, body.allowed]).toEqual([200, false])
      expect(await bobAsks()).toEqual([200, false, null])
    } finally {
      await deaf.close()
      proxy.close()
    }
  })
})
