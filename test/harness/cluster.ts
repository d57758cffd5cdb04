import process from 'node:process'
import { startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'

/**
 * Starts a cluster in the given folder, prints how to connect, and exits. It is a separate process because bun ends every
 * child of a test run when a single test times out, and the cluster is shared by all tests.
 */
const [directory = ''] = process.argv.slice(2)
const settings = {
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'off',
  max_connections: '400',
  // All tests get the plans of tables without statistics. A table that was vacuumed while small would be scanned whole, for
  // each row removed, once it is large.
  autovacuum: 'off',
}
const { connection } = await startEmbeddedPostgres({ directory, settings, supervise: false })
console.log(JSON.stringify(connection))
process.exit(0)
