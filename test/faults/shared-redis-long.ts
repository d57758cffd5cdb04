/**
 * `bun test/faults/shared-redis-long.ts [--asks 500] [--only staging]`: the set-ups in which Redis outlives or outnumbers the database, on Debian's
 * Postgres 15 with pg_dump and pg_restore. Prints the answers that were given after access had been taken away; the exit
 * code is 1 if one of them allows.
 */
import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll, reapFolder, reapProcess } from '../harness/reaper.ts'
import {
  type Api,
  api,
  freePort,
  type Person,
  register,
  startRedis,
  startServer,
  type TestConnection,
  type TestServer,
} from '../harness.ts'
import { createCuttable } from './cuttable.ts'
import { until } from './support.ts'

const { values } = parseArgs({ options: { asks: { type: 'string', default: '500' }, only: { type: 'string' } } })
const asks = Number(values.asks)
const programs = '/usr/lib/postgresql/15/bin'
const asPostgres = (program: string, ...args: string[]) =>
  execFileSync('runuser', ['-u', 'postgres', '--', join(programs, program), ...args], { stdio: 'pipe', cwd: '/' })

const startPostgres = async (): Promise<TestConnection> => {
  const folder = mkdtempSync(join(tmpdir(), 'velro-postgres-15-'))
  chmodSync(folder, 0o777)
  reapFolder(folder)
  const port = await freePort()
  asPostgres('initdb', '-D', join(folder, 'data'), '-A', 'trust', '--no-sync')
  const options = ['-D', join(folder, 'data'), '-k', folder, '-p', String(port), '-h', '', '-c', 'fsync=off']
  const server = spawn('runuser', ['-u', 'postgres', '--', join(programs, 'postgres'), ...options], {
    stdio: 'ignore',
    cwd: '/',
  })
  reapProcess(server.pid as number)
  const connection = { host: folder, port, user: 'postgres', database: 'postgres' }
  await until(async () => {
    const sql = connectOnce(connection)
    return sql`select 1`
      .then(
        () => true,
        () => false,
      )
      .finally(() => sql.end({ timeout: 0 }))
  }, 'Postgres 15 answers')
  return connection
}

type World = { connection: TestConnection; ada: Person; bob: Person; project: string }

const start = (connection: TestConnection, redisUrl: string, runtime: 'bun' | 'deno' = 'bun') =>
  startServer({ runtime, connection, env: { REDIS_URL: redisUrl, DB_CONNECTIONS: '12', LOG_LEVEL: 'warn' } })

const createWorld = async (connection: TestConnection, client: Api): Promise<World> => {
  const [ada, bob] = [await register(client), await register(client)]
  const { body } = await client.post('/api/v1/projects', { name: 'p' }, { token: ada.token })
  return { connection, ada, bob, project: body.id }
}
const check = (client: Api, { bob, project }: World) =>
  client.post(
    '/api/v1/authorization/check',
    { action: 'read', resource: { type: 'project', id: project } },
    { token: bob.token },
  )
const setVisibility = async (client: Api, { ada, project }: World, visibility: string) => {
  const { status } = await client.patch(`/api/v1/projects/${project}`, { visibility }, { token: ada.token })
  if (status !== 200) throw new Error(`visibility ${visibility}: ${status}`)
}
const isAllowed = async (client: Api, world: World) => (await check(client, world)).body.allowed === true

let wrong = 0
const askAll = async (what: string, client: Api, world: World, count = asks) => {
  const answers: Record<string, number> = {}
  for (let asked = 0; asked < count; asked += 1) {
    const { status, body } = await check(client, world)
    const answer =
      status === 200 ? `allowed ${body.allowed}${body.degraded ? ', marked' : ''}` : `${status} ${body.code}`
    if (body.allowed === true) wrong += 1
    answers[answer] = (answers[answer] ?? 0) + 1
  }
  console.log(what, answers)
}
const clientOf = ({ baseUrl }: TestServer) => api(baseUrl)
const l2Of = async (server: TestServer, world: World) =>
  (await clientOf(server).get('/api/v1/performance/metrics', { token: world.ada.token })).body.caches?.l2

const warm = async (client: Api, world: World) => {
  for (let asked = 0; asked < 5; asked += 1) {
    if (!(await isAllowed(client, world))) throw new Error('not allowed before')
    await Bun.sleep(100)
  }
}

/** An instance with a cold memory fills Redis with the facts that it reads from its database. */
const fillRedis = async (redisUrl: string, world: World, connection = world.connection) => {
  const filler = await start(connection, redisUrl)
  await Bun.sleep(1_500)
  await warm(clientOf(filler), world)
  await filler.stop()
}

const createDatabase = async (connection: TestConnection, name: string, template = 'template0') => {
  const sql = connectOnce(connection)
  await sql`create database ${sql(name)} template ${sql(template)}`
  await sql.end()
  return { ...connection, database: name }
}

const restoreInPlace = async (cluster: TestConnection, { live }: { live: boolean }) => {
  const connection = await createDatabase(cluster, live ? 'restored_live' : 'restored')
  const redis = await startRedis()
  const first = await start(connection, redis.url)
  const world = await createWorld(connection, clientOf(first))
  const dump = join(cluster.host, `${connection.database}.dump`)
  const at = ['-h', cluster.host, '-p', String(cluster.port), '-d', connection.database]
  asPostgres('pg_dump', ...at, '-Fc', '-f', dump)
  await setVisibility(clientOf(first), world, 'public')
  await fillRedis(redis.url, world)
  const second = live ? await start(connection, redis.url) : undefined
  if (second !== undefined) await warm(clientOf(second), world)
  if (!live) await first.stop()
  asPostgres('pg_restore', ...at, '--clean', '--if-exists', dump)
  // Takes back what a caller sees after the restore: private.
  const after = await start(connection, redis.url)
  await askAll(
    `pg_restore of a backup in place, Redis kept, ${live ? 'an instance that ran on' : 'restarted'}:`,
    clientOf(after),
    world,
  )
  if (live) await askAll('  the instance that ran on:', clientOf(first), world)
  for (const server of live ? [first, second, after] : [after]) await server?.stop()
  await redis.stop()
}

const staging = async (cluster: TestConnection) => {
  const connection = await createDatabase(cluster, 'production')
  const redis = await startRedis()
  const setup = await start(connection, redis.url)
  const world = await createWorld(connection, clientOf(setup))
  await setup.stop()
  const copy = await createDatabase(cluster, 'staging', 'production')
  const production = await start(connection, redis.url)
  const other = await start(copy, redis.url, 'deno')
  await setVisibility(clientOf(other), world, 'public')
  await setVisibility(clientOf(production), world, 'public')
  await fillRedis(redis.url, world)
  await setVisibility(clientOf(production), world, 'private')
  // Staging, where it is public, fills Redis after production has deleted its entry.
  await fillRedis(redis.url, world, copy)
  const cold = await start(connection, redis.url)
  await askAll('staging shares the Redis of production, which revoked:', clientOf(production), world)
  await askAll('  a cold instance of production:', clientOf(cold), world)
  for (const server of [production, other, cold]) await server.stop()
  await redis.stop()
}

const redisPerInstance = async (cluster: TestConnection) => {
  const connection = await createDatabase(cluster, 'several')
  const [one, two] = [await startRedis(), await startRedis()]
  const a = await start(connection, one.url)
  const route = await createCuttable(connection)
  const b = await start(route.connection, two.url, 'deno')
  const world = await createWorld(connection, clientOf(a))
  const sql = connectOnce(connection)
  await sql`update users set role = 'admin' where id = ${world.ada.id}`
  await setVisibility(clientOf(a), world, 'public')
  await fillRedis(two.url, world)
  await warm(clientOf(b), world)
  await Bun.sleep(6_000)
  console.log('a Redis per instance: use of Redis', (await l2Of(a, world))?.use, 'and', (await l2Of(b, world))?.use)
  await route.cut()
  await setVisibility(clientOf(a), world, 'private')
  await until(async () => (await sql`select from access_events`).length === 0, 'the event is confirmed')
  await route.mend()
  // A question before the lease would fill the memory from Postgres.
  await Bun.sleep(3_000)
  await askAll('a Redis per instance, after a cut of the bus:', clientOf(b), world)
  await sql.end()
  for (const server of [a, b]) await server.stop()
  await route.close()
  await one.stop()
  await two.stop()
}

const cutOffAlone = async (cluster: TestConnection) => {
  const connection = await createDatabase(cluster, 'cut')
  const redis = await startRedis()
  const route = await createCuttable(connection)
  const [a, b, c] = [
    await start(route.connection, redis.url),
    await start(connection, redis.url, 'deno'),
    await start(connection, redis.url),
  ] as const
  const world = await createWorld(connection, clientOf(b))
  for (let round = 1; round <= 3; round += 1) {
    await setVisibility(clientOf(b), world, 'public')
    await until(() => isAllowed(clientOf(a), world), 'allowed')
    await Bun.sleep(1_500)
    await isAllowed(clientOf(a), world)
    await route.cut()
    await setVisibility(clientOf(round % 2 === 0 ? b : c), world, 'private')
    const from = performance.now()
    await Promise.all([
      askAll(`one of three instances cut off from Postgres, round ${round}:`, clientOf(a), world),
      askAll('  the second instance:', clientOf(b), world),
      askAll('  the third instance:', clientOf(c), world),
    ])
    while (performance.now() - from < 5_000) if (await isAllowed(clientOf(a), world)) wrong += 1
    await route.mend()
    await until(async () => (await check(clientOf(a), world)).status === 200, 'it answers again')
  }
  for (const server of [a, b, c]) await server.stop()
  await route.close()
  await redis.stop()
}

try {
  const cluster = await startPostgres()
  const scenarios = {
    restored: () => restoreInPlace(cluster, { live: false }),
    'restored-live': () => restoreInPlace(cluster, { live: true }),
    staging: () => staging(cluster),
    'redis-per-instance': () => redisPerInstance(cluster),
    'cut-off': () => cutOffAlone(cluster),
  }
  for (const [name, run] of Object.entries(scenarios))
    if (values.only === undefined || values.only === name) await run()
  console.log(`wrong allows: ${wrong}`)
  if (wrong > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
