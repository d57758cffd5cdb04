import { connectOnce } from '../../../src/platform/postgres.ts'
import { type Runtime, startServer, type TestConnection } from '../../harness.ts'
import { blackBox } from '../black-box.ts'

const sharedOrigin = 'https://app.example.com'

/** What is done to the database of a server behind its back, over one connection that is kept until `end`. */
const createBackDoor = (connection: TestConnection) => {
  const sql = connectOnce(connection)
  return {
    /** All but what comes and goes by itself: events, and what comes of jobs. */
    count: async (): Promise<Record<string, number>> => {
      const tables = await sql<{ name: string }[]>`
        select tablename as name from pg_tables where schemaname = 'public'
           and tablename not in ('access_events', 'generation_jobs', 'media', 'media_claims', 'media_objects',
                                 'media_orphans', 'credit_ledger') order by 1`
      const counts = tables.map(async ({ name }) => {
        const [row] = await sql<{ rows: number }[]>`select count(*)::int as rows from ${sql(name)}`
        return [name, row?.rows ?? 0] as const
      })
      return Object.fromEntries(await Promise.all(counts))
    },
    /** Before the person is known to the server as anything else. */
    makeAdmin: async (userId: string): Promise<void> => {
      await sql`update users set role = 'admin' where id = ${userId}`
    },
    end: () => sql.end(),
  }
}

/** The black box against a server of its own on one runtime; with BASE_URL, once against the server that names. */
export const blackBoxOn = (runtime: Runtime): void => {
  const given = process.env['BASE_URL']
  if (given !== undefined) {
    if (runtime === 'bun') blackBox(given, async () => ({ baseUrl: given.replace(/\/$/, '') }))
    return
  }
  blackBox(`on ${runtime}`, async () => {
    const server = await startServer({ runtime, env: { CORS_ORIGINS: sharedOrigin, LOG_LEVEL: 'trace' } })
    const backDoor = createBackDoor(server.connection)
    return {
      baseUrl: server.baseUrl,
      runtime,
      sharedOrigin,
      countRows: backDoor.count,
      makeAdmin: backDoor.makeAdmin,
      output: server.output,
      stop: async () => {
        await backDoor.end()
        await server.stop()
      },
    }
  })
}
