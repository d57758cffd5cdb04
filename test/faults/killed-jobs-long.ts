/**
 * `bun test/faults/killed-jobs-long.ts [--jobs 1000] [--instances 3] [--kill-every 3]`: killed-jobs.test.ts with
 * more jobs and leases of the real length. Prints the outcome; the exit code is 1 after a violation.
 */
import { parseArgs } from 'node:util'
import { reapAll } from '../harness/reaper.ts'
import { run } from './killed-jobs/run.ts'

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '1000' },
    instances: { type: 'string', default: '3' },
    'kill-every': { type: 'string', default: '3' },
  },
})

try {
  const outcome = await run({
    jobs: Number(values.jobs),
    instances: Number(values.instances),
    killEveryS: Number(values['kill-every']),
  })
  console.log(outcome)
  if (outcome.violations.length > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
