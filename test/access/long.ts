/**
 * `bun test/access/long.ts [writes] [seed]`: the random writes of project-access.test.ts, ten times as many. Exits
 * with 1 and prints the seed at the first effective-access row that differs from the base tables.
 */

import { reapAll } from '../harness/reaper.ts'
import { createDatabase } from '../harness.ts'
import { storm } from './storm.ts'

const [writes = 100_000, seed = Date.now() % 2 ** 31] = process.argv.slice(2).map(Number)

const { connection } = await createDatabase()
const startedMs = performance.now()
try {
  const outcome = await storm({ connection, writes, writers: 8, seed })
  console.log({ seed, ...outcome, differences: 0, seconds: Math.round(performance.now() - startedMs) / 1_000 })
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
