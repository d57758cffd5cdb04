import process from 'node:process'
import { startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'

/**
 * Starts a cluster in the folder given, says how to connect, and ends. A process of its own, because bun ends every child
 * of a test run when a single test takes too long, and the cluster is for all of them.
 */
const [directory = ''] = process.argv.slice(2)
const settings = {
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'off',
  max_connections: '400',
  // Plans are those of tables without statistics, whenever a test runs: tables that were vacuumed while they were small are
  // read whole, for each row that is removed, once they are large.
  autovacuum: 'off',
}
const { connection } = await startEmbeddedPostgres({ directory, settings, supervise: false })
console.log(JSON.stringify(connection))
process.exit(0)
