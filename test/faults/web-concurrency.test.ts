import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { chmod, mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { respawnDelayMs } from '../../src/boot/supervisor.ts'
import { connectionBudget, readConnectionLimits } from '../../src/platform/connection-budget.ts'
import { connectOnce, poolNames, sizePools } from '../../src/platform/postgres.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { api, createDatabase, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { childrenOf, holdersOf, type KeptConnection, keepConnection, listenersOn, lives } from './processes.ts'
import { holdUser, until } from './support.ts'

const drainMs = 3_000
const greeting = 'Velro is ready'
const count = (text: string, part: string) => text.split(part).length - 1
const portOf = ({ baseUrl }: TestServer) => Number(new URL(baseUrl).port)

// With an origin and limits, as in a deployment: without them each start warns.
const serverEnv = {
  LIMITS: 'on',
  WEB_CONCURRENCY: '2',
  DRAIN_SECONDS: String(drainMs / 1_000),
  PUBLIC_URL: 'https://velro.example.com',
}

const started: TestServer[] = []
const releases: (() => Promise<void>)[] = []
const connections: KeptConnection[] = []
afterEach(async () => {
  for (const connection of connections.splice(0)) connection.close()
  for (const release of releases.splice(0)) await release()
  for (const server of started.splice(0)) await server.stop()
})

type Options = { runtime?: Runtime; env?: Record<string, string>; connection?: TestServer['connection'] }

const start = async ({ runtime = 'bun', env, connection }: Options = {}) => {
  const server = await startServer({
    runtime,
    ...(connection && { connection }),
    env: { ...serverEnv, ...env },
    readyWithinMs: 60_000,
  })
  started.push(server)
  return server
}
const connectTo = async (server: TestServer) => {
  const connection = await keepConnection(portOf(server))
  connections.push(connection)
  return connection
}
const connectMany = (server: TestServer, size: number) =>
  Promise.all(Array.from({ length: size }, () => connectTo(server)))
const ended = (pids: readonly number[]) => !pids.some(lives)

/** The output of a start that fails. */
const refusal = (options: Options): Promise<string> =>
  start(options).then(
    () => 'It started',
    (error) => String(error),
  )

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`two processes on one port, on ${runtime}`, () => {
    /** Shared by the tests that change neither its processes nor its port. */
    let server: TestServer
    beforeAll(async () => {
      server = await startServer({ runtime, env: serverEnv, readyWithinMs: 60_000 })
    }, 60_000)
    afterAll(() => server.stop())

    test('both processes accept connections, and one greeting is printed', async () => {
      const pids = childrenOf(server.pid)
      expect(pids).toHaveLength(2)
      const clients = await connectMany(server, 40)
      const answers = await Promise.all(clients.map((client) => client.get('/health')))
      expect(answers).toEqual(clients.map(() => 200))
      const { listening, connections: held } = holdersOf(portOf(server), pids)
      expect(listening.toSorted()).toEqual(pids.toSorted())
      // The chance that one process gets all 40 is 1 in 2³⁹.
      expect(new Set(clients.map(({ localPort }) => held.get(localPort)))).toEqual(new Set(pids))
      expect(count(server.output(), greeting)).toBe(1)
      expect(server.output()).not.toContain('"level":"warn"')
    })

    test('a change made through one process is in force in the other when the call returns', async () => {
      const client = api(server.baseUrl)
      const [owner, other] = [await register(client), await register(client)]
      const { body } = await client.post('/api/v1/projects', { name: 'Shown' }, { token: owner.token })
      const path = `/api/v1/projects/${body.id}`
      const many = await connectMany(server, 40)
      await Promise.all(many.map((one) => one.get('/health')))
      const held = holdersOf(portOf(server), childrenOf(server.pid)).connections
      const both = new Map(many.map((one) => [held.get(one.localPort), one]))
      expect(both.size).toBe(2)
      const seen: (readonly (number | undefined)[])[] = []
      for (let round = 0; round < 50; round += 1) {
        for (const visibility of ['public', 'private']) {
          expect((await client.patch(path, { visibility }, { token: owner.token })).status).toBe(200)
          seen.push(await Promise.all([...both.values()].map((one) => one.get(path, other.token))))
        }
      }
      expect(seen).toEqual(seen.map((_, turn) => (turn % 2 === 0 ? [200, 200] : [404, 404])))
      expect((await client.post('/api/v1/auth/logout', undefined, { token: other.token })).status).toBe(204)
      expect(await Promise.all([...both.values()].map((one) => one.get(path, other.token)))).toEqual([401, 401])
    })

    test('a killed (-9) process loses only its requests in flight and is replaced', async () => {
      const server = await start({ runtime, env: { LIMITS: 'off', LOG_LEVEL: 'warn' } })
      const { token } = await register(api(server.baseUrl))
      const pids = childrenOf(server.pid)
      const broken: number[] = []
      const statuses: (number | undefined)[] = []
      // A killed process accepts connections for a moment, and they break with it: a client that is cut off waits until its
      // socket is closed.
      const listeners = listenersOn(portOf(server))
      const oneStoppedListening = () => {
        const now = listenersOn(portOf(server))
        return listeners.some((inode) => !now.includes(inode))
      }
      let over = false
      const load = async () => {
        for (let client = await connectTo(server); !over; ) {
          const status = await client.get('/api/v1/auth/me', token)
          if (status !== undefined) statuses.push(status)
          else {
            broken.push(client.localPort)
            await until(oneStoppedListening, 'the killed process accepts no connections')
            client = await connectTo(server)
          }
        }
      }
      const clients = Array.from({ length: 24 }, load)
      await until(() => statuses.length > 500, '500 requests are answered')
      // A connection not yet accepted belongs to no process in /proc, and breaks with the process in whose queue it is.
      let held = new Map<number, number>()
      await until(() => {
        held = holdersOf(portOf(server), pids).connections
        return connections.length === clients.length && connections.every(({ localPort }) => held.has(localPort))
      }, 'every connection is accepted')
      expect(new Set(held.values())).toEqual(new Set(pids))
      expect(broken).toEqual([])

      const [killed, spared] = pids as [number, number]
      process.kill(killed, 'SIGKILL')
      await until(() => {
        const now = holdersOf(portOf(server), childrenOf(server.pid)).listening
        return now.length === 2 && !now.includes(killed)
      }, 'another process listens')
      const served = statuses.length
      await until(() => statuses.length > served + 500, '500 more requests are answered')
      over = true
      await Promise.all(clients)

      expect(new Set(statuses)).toEqual(new Set([200]))
      // Each connection breaks once, so at most one request per connection fails.
      const own = [...held].filter(([, pid]) => pid === killed).map(([port]) => port)
      expect(broken.filter((port) => !own.includes(port))).toEqual([])
      expect(new Set(broken).size).toBe(broken.length)
      const after = childrenOf(server.pid)
      expect(after).toHaveLength(2)
      expect(after).toContain(spared)
      const newcomers = await connectMany(server, 40)
      await Promise.all(newcomers.map((client) => client.get('/health')))
      const now = holdersOf(portOf(server), after).connections
      expect(new Set(newcomers.map(({ localPort }) => now.get(localPort)))).toEqual(new Set(after))
    })

    test('after SIGTERM all processes finish the requests under way and exit with code 0', async () => {
      const server = await start({ runtime })
      const client = api(server.baseUrl)
      const { id, token } = await register(client)
      const pids = childrenOf(server.pid)
      const hold = await holdUser(server.connection, id)
      releases.push(hold.release)
      const answer = client.patch('/api/v1/auth/me', { display_name: 'Late' }, { token })
      await hold.waiting(1)
      const end = server.kill('SIGTERM')
      await until(() => count(server.output(), 'shutting down') === 3, 'all three processes log the shutdown')
      // A terminal sends Ctrl-C to every process. For these two it is the first signal, however late.
      await Bun.sleep(300)
      for (const pid of pids.filter(lives)) process.kill(pid, 'SIGINT')
      await Bun.sleep(100)
      await hold.release()
      expect((await answer).status).toBe(200)
      expect(await end).toBe(0)
      expect(ended(pids)).toBe(true)
      expect(server.output()).not.toMatch(/"level":"(warn|error|fatal)"/)
    })

    test('a second SIGTERM ends all processes at once', async () => {
      const server = await start({ runtime })
      const client = api(server.baseUrl)
      const { id, token } = await register(client)
      const pids = childrenOf(server.pid)
      const hold = await holdUser(server.connection, id)
      releases.push(hold.release)
      const answer = client.patch('/api/v1/auth/me', { display_name: 'Late' }, { token }).catch(() => undefined)
      await hold.waiting(1)
      const startedMs = performance.now()
      const end = server.kill('SIGTERM')
      await Bun.sleep(400)
      server.process.kill('SIGTERM')
      expect(await end).toBe(1)
      await until(() => ended(pids), 'the processes have ended')
      expect(performance.now() - startedMs).toBeLessThan(drainMs * 0.6)
      expect((await answer)?.status).not.toBe(200)
    })

    test('the processes end and free the port when their supervisor is killed (-9)', async () => {
      const server = await start({ runtime })
      const pids = childrenOf(server.pid)
      server.kill('SIGKILL')
      await until(() => ended(pids), 'the processes have ended', drainMs)
      const again = await start({ runtime, connection: server.connection, env: { PORT: String(portOf(server)) } })
      expect(childrenOf(again.pid)).toHaveLength(2)
    })

    test('a port on which another Velro serves is refused with one line, even if that one shares it', async () => {
      const single = await start({ runtime, env: { WEB_CONCURRENCY: '1' } })
      for (const [theirs, ours] of [
        [server, 2],
        [single, 2],
        [server, 1],
        [single, 1],
      ] as const) {
        const env = { WEB_CONCURRENCY: String(ours), PORT: String(portOf(theirs)) }
        const told = await refusal({ runtime, connection: theirs.connection, env })
        expect(told).toContain('exit code 1')
        expect(told.split('\n').slice(1).filter(Boolean)).toEqual([
          `Port ${env.PORT} on 127.0.0.1 is in use. Stop the process that listens on it, or set PORT to another port.`,
        ])
      }
    })

    test('a start failure of the first process is reported once, and no second process is started', async () => {
      const { connection, drop } = await createDatabase()
      releases.push(drop)
      const told = await refusal({ runtime, connection: { ...connection, database: 'not_there' } })
      expect(told).toContain('exit code 1')
      expect(count(told, 'has no database "not_there"')).toBe(1)
      expect(told.trim().split('\n')).toHaveLength(2)
    })

    test('the embedded Postgres stops after the processes, and one left behind by kill -9 is adopted', async () => {
      const directory = await mkdtemp(join(tmpdir(), 'velro-processes-'))
      await chmod(directory, 0o755)
      reapFolder(directory)
      reapCluster(join(directory, 'postgres'))
      const pidFile = join(directory, 'postgres/data/postmaster.pid')
      const postmaster = async () => Number((await readFile(pidFile, 'utf8')).split('\n')[0])
      const connection = { host: '', port: 0, user: '', database: '' }
      const env = { DATABASE_URL: '', DATA_DIR: directory, SECRET: '' }

      const killed = await start({ runtime, connection, env })
      const postgres = await postmaster()
      const pids = childrenOf(killed.pid).filter((pid) => pid !== postgres)
      expect(pids).toHaveLength(2)
      const person = await register(api(killed.baseUrl))
      killed.kill('SIGKILL')
      await until(() => ended(pids), 'the processes have ended', drainMs)

      const second = await start({ runtime, connection, env })
      expect(await postmaster()).toBe(postgres)
      expect((await api(second.baseUrl).get('/api/v1/auth/me', { token: person.token })).status).toBe(200)
      expect(await second.kill('SIGTERM')).toBe(0)
      expect(lives(postgres)).toBe(false)
      expect(second.output()).not.toMatch(/"level":"(warn|error|fatal)"/)
    })
  })
}

describe('two processes', () => {
  test('share the connections that the database allows', async () => {
    const server = await start({ env: { DB_CONNECTIONS: '' } })
    const sql = connectOnce(server.connection)
    releases.push(() => sql.end())
    const sizes = sizePools(connectionBudget(await readConnectionLimits(sql), 2))
    const wanted = poolNames.map((name) => [`velro:${name}`, 2 * sizes[name].min] as const)
    const opened = async () => {
      const rows = await sql<{ name: string; count: number }[]>`
        select application_name as name, count(*)::int as count from pg_stat_activity
         where datname = ${server.connection.database} and application_name <> 'velro:start' group by 1`
      return rows.map(({ name, count }) => `${name} ${count}`).toSorted()
    }
    const expected = [['velro:bus', 2] as const, ['velro:bus-sender', 2] as const, ...wanted]
      .map(([name, size]) => `${name} ${size}`)
      .toSorted()
    // The start opens more for a moment, as does a busy machine at any time; a pool closes those after 30 s.
    const closedMs = 100_000
    await until(async () => Bun.deepEquals(await opened(), expected), `each has opened ${expected}`, closedMs)
  }, 120_000)

  test('a process that keeps crashing is restarted after growing delays', async () => {
    const server = await start({ env: { LOG_LEVEL: 'warn' } })
    let known = childrenOf(server.pid)
    const [spared] = known
    let [, last] = known as [number, number]
    for (let time = 0; time < 3; time += 1) {
      process.kill(last, 'SIGKILL')
      await until(() => childrenOf(server.pid).some((pid) => !known.includes(pid)), 'a replacement has started')
      last = childrenOf(server.pid).find((pid) => !known.includes(pid)) as number
      known = [...known, last]
    }
    const delays = [...server.output().matchAll(/"delayMs":(\d+)/g)].map(([, delay]) => Number(delay))
    expect(delays).toEqual([0, 200, 400])
    expect(childrenOf(server.pid).toSorted()).toEqual([spared as number, last].toSorted())
  })

  test('the delay before a restart is at most 5 s', () => {
    const delays = [0, 1, 2, 3, 4, 5, 6, 7, 8, 1_000, 10_000].map(respawnDelayMs)
    expect(delays).toEqual([0, 0, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000])
  })
})
