/**
 * `bun test/faults/shared-redis-long.ts [--asks 500] [--only staging] [--program FOLDER]`: the set-ups in which Redis outlives
 * or outnumbers the database, on Debian's Postgres 15 with its programs. Prints the answers that were given after access had
 * been taken away; the exit code is 1 if one of them allows. --program: the servers are those of a checkout in FOLDER.
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

const { values } = parseArgs({
  options: { asks: { type: 'string', default: '500' }, only: { type: 'string' }, program: { type: 'string' } },
})
const asks = Number(values.asks)
const programs = '/usr/lib/postgresql/15/bin'
const asPostgres = (program: string, ...args: string[]) =>
  execFileSync('runuser', ['-u', 'postgres', '--', join(programs, program), ...args], { stdio: 'pipe', cwd: '/' })

type Postgres = TestConnection & {
  readonly folder: string
  /** Ends the server at once, as a loss of power does. */
  kill(): Promise<void>
  /** Starts it again on the same address, with the files that are in its folder. */
  start(): Promise<void>
}

const answers = async (connection: TestConnection): Promise<boolean> => {
  const sql = connectOnce(connection)
  return sql`select 1`
    .then(
      () => true,
      () => false,
    )
    .finally(() => sql.end({ timeout: 0 }))
}

/** A new server, or one on the given address whose files `fill` puts into its folder. */
const startPostgres = async (
  fill: (data: string) => void = (data) => asPostgres('initdb', '-D', data, '-A', 'trust', '--no-sync'),
  address?: TestConnection,
): Promise<Postgres> => {
  const folder = mkdtempSync(join(tmpdir(), 'velro-postgres-15-'))
  chmodSync(folder, 0o777)
  reapFolder(folder)
  const { host = folder, port = await freePort() } = address ?? {}
  const data = join(folder, 'data')
  fill(data)
  const connection = { host, port, user: 'postgres', database: 'postgres' }
  const options = ['-D', data, '-k', host, '-p', String(port), '-h', '', '-c', 'fsync=off']
  const start = async () => {
    const server = spawn('runuser', ['-u', 'postgres', '--', join(programs, 'postgres'), ...options], {
      stdio: 'ignore',
      cwd: '/',
    })
    reapProcess(server.pid as number)
    await until(() => answers(connection), 'Postgres 15 answers')
  }
  const kill = async () => {
    asPostgres('pg_ctl', '-D', data, '-m', 'immediate', '-w', 'stop')
  }
  await start()
  return { ...connection, folder, kill, start }
}

type World = { connection: TestConnection; ada: Person; bob: Person; project: string }

const start = (connection: TestConnection, redisUrl: string, runtime: 'bun' | 'deno' = 'bun') =>
  startServer({
    runtime,
    connection,
    ...(values.program !== undefined && { directory: values.program }),
    env: { REDIS_URL: redisUrl, DB_CONNECTIONS: '12', LOG_LEVEL: 'warn' },
  })

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

/** The volume of the server is set back to a snapshot, while an instance and Redis run on. */
const volumeSetBack = async () => {
  const postgres = await startPostgres()
  const connection = await createDatabase(postgres, 'volume')
  const redis = await startRedis()
  const first = await start(connection, redis.url)
  const world = await createWorld(connection, clientOf(first))
  const [data, snapshot] = [join(postgres.folder, 'data'), join(postgres.folder, 'snapshot')]
  await postgres.kill()
  execFileSync('cp', ['-a', data, snapshot])
  await postgres.start()
  const makePublic = () => setVisibility(clientOf(first), world, 'public')
  await until(
    () =>
      makePublic().then(
        () => true,
        () => false,
      ),
    'it writes again',
  )
  await fillRedis(redis.url, world)
  await warm(clientOf(first), world)
  await postgres.kill()
  execFileSync('rm', ['-rf', data])
  execFileSync('mv', [snapshot, data])
  await postgres.start()
  const restarted = await start(connection, redis.url)
  await askAll('a volume that was set back, Redis kept, restarted:', clientOf(restarted), world)
  await askAll('  the instance that ran on:', clientOf(first), world)
  for (const server of [first, restarted]) await server.stop()
  await redis.stop()
}

/** A standby that lacks the last commits is promoted on the address of the primary. */
const promotedStandby = async () => {
  const primary = await startPostgres()
  const connection = await createDatabase(primary, 'replicated')
  const redis = await startRedis()
  const first = await start(connection, redis.url)
  const world = await createWorld(connection, clientOf(first))
  // A copy that never receives another commit, as a standby that lags does not.
  const copy = join(primary.folder, 'standby')
  const from = ['-h', primary.host, '-p', String(primary.port), '-U', 'postgres']
  asPostgres('pg_basebackup', ...from, '-D', copy, '-X', 'stream', '-c', 'fast', '--no-sync')
  execFileSync('runuser', ['-u', 'postgres', '--', 'touch', join(copy, 'standby.signal')])
  await setVisibility(clientOf(first), world, 'public')
  await fillRedis(redis.url, world)
  await warm(clientOf(first), world)
  await primary.kill()
  const standby = await startPostgres((data) => execFileSync('mv', [copy, data]), primary)
  asPostgres('pg_ctl', '-D', join(standby.folder, 'data'), '-w', 'promote')
  const restarted = await start(connection, redis.url)
  await askAll('a standby without the last commits was promoted, Redis kept, restarted:', clientOf(restarted), world)
  await askAll('  the instance that ran on:', clientOf(first), world)
  for (const server of [first, restarted]) await server.stop()
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
    volume: volumeSetBack,
    standby: promotedStandby,
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
