import { connectOnce } from '../../../src/platform/postgres.ts'
import { type Runtime, startServer, type TestConnection } from '../../harness.ts'
import { blackBox } from '../black-box.ts'
import { blackBoxEnvironment, type Subject, sharedOrigin } from './driver.ts'

/** Direct access to the database of a server, over one connection that stays open until `end`. */
const createBackDoor = (connection: TestConnection) => {
  const sql = connectOnce(connection)
  return {
    /**
     * Rows per table, without those that background work changes: events, alerts, results of jobs, views and statistics. Of incidents only
     * those that operators opened: the detection of anomalies reports a suite whose refused requests last long.
     */
    count: async (): Promise<Record<string, number>> => {
      const tables = await sql<{ name: string }[]>`
        select tablename as name from pg_tables where schemaname = 'public'
           and tablename not like 'audit%' and tablename not in ('access_events', 'alerts', 'alert_evaluator', 'generation_jobs', 'media', 'media_claims', 'media_objects',
                                 'media_orphans', 'outbound_tasks', 'one_time_tokens', 'mail_counts', 'account_usage', 'credit_ledger', 'view_refreshes', 'access_heat',
                                 'redis_registrations', 'redis_registry') order by 1`
      const counts = tables.map(async ({ name }) => {
        const [row] = await sql<
          { rows: number }[]
        >`select count(*)::int as rows from ${sql(name)} ${name === 'incidents' ? sql`where opened_by is not null` : sql``}`
        return [name, row?.rows ?? 0] as const
      })
      return Object.fromEntries(await Promise.all(counts))
    },
    auditedActions: async (): Promise<ReadonlyMap<string, readonly string[]>> => {
      const rows = await sql<{ request_id: string; actions: string[] }[]>`
        select request_id, array_agg(action) as actions from audit_events group by request_id`
      return new Map(rows.map(({ request_id, actions }) => [request_id, actions]))
    },
    makeAdmin: async (userId: string): Promise<void> => {
      await sql`update users set role = 'admin' where id = ${userId}`
    },
    end: () => sql.end(),
  }
}

/** What `test/world` says about the server at BASE_URL. */
const givenSubject = (baseUrl: string) => {
  const { proxy, connection } = JSON.parse(process.env['SUBJECT'] ?? '{}') as {
    proxy?: Subject['proxy']
    connection?: TestConnection
  }
  const backDoor = connection && createBackDoor(connection)
  return {
    baseUrl: baseUrl.replace(/\/$/, ''),
    proxy,
    ...(backDoor && {
      sharedOrigin,
      countRows: backDoor.count,
      auditedActions: backDoor.auditedActions,
      makeAdmin: backDoor.makeAdmin,
      stop: backDoor.end,
    }),
  }
}

/** The black box against a new server on one runtime, or with BASE_URL once against the server at that address. */
export const blackBoxOn = (runtime: Runtime): void => {
  const given = process.env['BASE_URL']
  if (given !== undefined) {
    if (runtime === 'bun') blackBox(given, async () => givenSubject(given))
    return
  }
  blackBox(`on ${runtime}`, async () => {
    const server = await startServer({ runtime, env: { ...blackBoxEnvironment, LOG_LEVEL: 'trace' } })
    const backDoor = createBackDoor(server.connection)
    return {
      baseUrl: server.baseUrl,
      runtime,
      sharedOrigin,
      countRows: backDoor.count,
      auditedActions: backDoor.auditedActions,
      makeAdmin: backDoor.makeAdmin,
      output: server.output,
      stop: async () => {
        await backDoor.end()
        await server.stop()
      },
    }
  })
}
