/**
 * `bun test/faults/killed-jobs-long.ts [--jobs 1000] [--instances 3] [--kill-every 3]`: what killed-jobs.test.ts does, with more
 * jobs and leases as they are. Prints what was seen; ends with 1 at anything that should not be.
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
  if (outcome.wrong.length > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
