/**
 * `bun test/faults/bus-setups.ts [--asks 500] [--setup NAME, of those in `setUps`] [--beside FOLDER] [--program FOLDER]`: three
 * servers in set-ups in which the bus is wrong, lossy, or shared with another version of the program (a checkout in FOLDER with
 * its dependencies installed; --program: all three are from there). Access is taken away through one of them, and all three are
 * asked right after the answer. Prints the count of wrong allows and what /ready and the metrics say; exits with 1 after any.
 */
import { createServer, connect as dial, type Socket } from 'node:net'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { startPgbouncer } from '../harness/pgbouncer.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, createDatabase, freePort, register, startRedis, startServer, type TestConnection } from '../harness.ts'
import { findPgbouncer } from '../world/programs.ts'

const { values } = parseArgs({
  options: {
    asks: { type: 'string', default: '500' },
    setup: { type: 'string', multiple: true },
    beside: { type: 'string' },
    program: { type: 'string' },
  },
})

const projects = 10

/** Forwards a connection to Postgres and loses one in three notifications of events on the way back. */
const startLossyProxy = async ({ host, port, user, database }: TestConnection) => {
  const counts = { forwarded: 0, lost: 0 }
  const listenOn = await freePort()
  const proxy = createServer((near: Socket) => {
    const far = dial(join(host, `.s.PGSQL.${port}`))
    let buffered = Buffer.alloc(0)
    near.on('data', (data) => void far.write(data))
    far.on('data', (data: Buffer) => {
      buffered = Buffer.concat([buffered, data])
      // The answer to the request for TLS has no length.
      if (buffered.length === 1 && buffered[0] === 'N'.charCodeAt(0)) {
        near.write(buffered)
        buffered = Buffer.alloc(0)
      }
      // A message: one byte for its type, then its length without that byte.
      while (buffered.length >= 5) {
        const end = 1 + buffered.readInt32BE(1)
        if (buffered.length < end) return
        const message = buffered.subarray(0, end)
        buffered = buffered.subarray(end)
        const isEvent = message[0] === 'A'.charCodeAt(0) && message.includes('\0event ')
        if (isEvent && Math.random() < 1 / 3) counts.lost += 1
        else {
          if (isEvent) counts.forwarded += 1
          near.write(message)
        }
      }
    })
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('error', () => {})
      from.on('close', () => to.destroy())
    }
  })
  await new Promise<void>((resolve) => proxy.listen(listenOn, '127.0.0.1', resolve))
  return { url: `postgres://${user}@127.0.0.1:${listenOn}/${database}`, counts, close: () => proxy.close() }
}

/** The fault: the environment of each of three servers, and the folder of another version for some. */
type SetUp = {
  readonly env: Record<string, string>
  readonly directories?: readonly (string | undefined)[]
  readonly report?: () => object
}

const setUps: Readonly<Record<string, (connection: TestConnection) => Promise<SetUp>>> = {
  direct: async () => ({ env: {} }),
  pooler: async (connection) => ({ env: { DATABASE_BUS_URL: (await startPgbouncer(connection)).url() } }),
  // DATABASE_URL leads through PgBouncer 1.21 or newer, and DATABASE_BUS_URL was forgotten.
  'pooler-forgotten': async (connection) => {
    const program = findPgbouncer('newer')
    if (program === undefined) throw new Error('test/world/install.sh lays out a newer PgBouncer')
    const pooler = await startPgbouncer(connection, { program, settings: { max_prepared_statements: '200' } })
    return { env: { DATABASE_URL: pooler.url() } }
  },
  // As it should be behind a pooler.
  'pooler-right': async (connection) => {
    const program = findPgbouncer('newer')
    if (program === undefined) throw new Error('test/world/install.sh lays out a newer PgBouncer')
    const pooler = await startPgbouncer(connection, { program, settings: { max_prepared_statements: '200' } })
    return { env: { DATABASE_URL: pooler.url(), DATABASE_BUS_URL: `postgres:///${connection.database}` } }
  },
  'other-database': async () => {
    const { connection } = await createDatabase()
    return { env: { DATABASE_BUS_URL: `postgres:///${connection.database}` } }
  },
  gap: async (connection) => {
    const { url, counts } = await startLossyProxy(connection)
    return { env: { DATABASE_BUS_URL: url }, report: () => counts }
  },
  beside: async () => {
    if (values.beside === undefined) throw new Error('Say with --beside where the other version is')
    return { env: {}, directories: [undefined, values.beside, undefined] }
  },
}

const run = async (name: string, asks: number): Promise<number> => {
  const { connection } = await createDatabase()
  const redis = await startRedis()
  const setUp = setUps[name]
  if (setUp === undefined) throw new Error(`There is no set-up ${name}`)
  const { env, directories = [], report = () => ({}) } = await setUp(connection)
  const start = (directory: string | undefined) =>
    startServer({
      runtime: 'bun',
      connection,
      ...(values.program !== undefined && { directory: values.program }),
      env: { REDIS_URL: redis.url, LOG_LEVEL: 'warn', JOB_CONCURRENCY: '0', DB_CONNECTIONS: '12', ...env },
      ...(directory !== undefined && { directory }),
    })
  // The newest version first: it migrates the database that the other one then finds ahead of its files.
  const servers = []
  for (const place of [0, 1, 2]) servers.push(await start(directories[place]))
  const clients = servers.map(({ baseUrl }) => api(baseUrl))
  const [first] = clients
  if (first === undefined) throw new Error('No server')
  const owner = await register(first)
  const guest = await register(first)
  const sql = connectOnce(connection)
  await sql`update users set role = 'admin' where id = ${owner.id}`
  await Bun.sleep(3_000)

  const ids = await Promise.all(
    Array.from({ length: projects }, async () => {
      const { body } = await first.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: owner.token })
      return body.id as string
    }),
  )
  const counts = { asked: 0, wrong: 0, refusedChanges: {} as Record<string, number>, tooStrict: 0 }
  const isAllowed = async (client: (typeof clients)[number], id: string) => {
    const question = { action: 'read', resource: { type: 'project', id } }
    return (await client.post('/api/v1/authorization/check', question, { token: guest.token })).body.allowed as boolean
  }
  const set = async (client: (typeof clients)[number], id: string, visibility: 'public' | 'private') => {
    for (;;) {
      const { status, body } = await client.patch(`/api/v1/projects/${id}`, { visibility }, { token: owner.token })
      if (status < 300) return
      if (status !== 503) throw new Error(`PATCH answered ${status}`)
      counts.refusedChanges[body.code] = (counts.refusedChanges[body.code] ?? 0) + 1
      await Bun.sleep(200)
    }
  }
  for (let round = 0; counts.asked < asks; round += 1) {
    const writer = clients[round % clients.length] as (typeof clients)[number]
    await Promise.all(
      ids.map(async (id) => {
        await set(writer, id, 'public')
        for (const client of [...clients, ...clients]) if (!(await isAllowed(client, id))) counts.tooStrict += 1
        await set(writer, id, 'private')
        for (const allowed of await Promise.all(clients.map((client) => isAllowed(client, id)))) {
          counts.asked += 1
          if (allowed) counts.wrong += 1
        }
      }),
    )
  }
  const told = await Promise.all(
    clients.map(async (client) => {
      const ready = await client.get('/ready')
      const { bus } = (await client.get('/api/v1/performance/metrics', { token: owner.token })).body
      const { lease_held, no_lease_reason, members_of_other_version, gaps } = bus
      return { ready: ready.body, lease_held, no_lease_reason, others: members_of_other_version?.length, gaps }
    }),
  )
  console.log(JSON.stringify({ setup: name, ...counts, ...report() }))
  for (const line of told) console.log(`  ${JSON.stringify(line)}`)
  for (const { output } of servers) {
    const line = output()
      .split('\n')
      .find((text) => text.includes('bus.no_lease'))
    if (line !== undefined) console.log(`  ${line}`)
  }
  await sql.end()
  await Promise.all(servers.map(({ stop }) => stop()))
  await redis.stop()
  return counts.wrong
}

try {
  let wrong = 0
  for (const name of values.setup ?? Object.keys(setUps)) {
    if (name === 'beside' && values.beside === undefined) continue
    wrong += await run(name, Number(values.asks))
  }
  if (wrong > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
