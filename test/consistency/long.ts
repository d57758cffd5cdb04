/**
 * `bun test/consistency/long.ts [--seconds 60] [--acknowledgements off] [--calm] [--fault 'redis']`: the storm of storm.test.ts
 * for longer, with a report. Exits with 1 after any wrong answer.
 */
import { parseArgs } from 'node:util'
import { reapAll } from '../harness/reaper.ts'
import { report } from './report.ts'
import { storm } from './storm.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    acknowledgements: { type: 'string', default: 'on' },
    calm: { type: 'boolean', default: false },
    fault: { type: 'string' },
  },
})

try {
  const oracle = await storm({
    seconds: Number(values.seconds),
    faults: values.fault ?? !values.calm,
    env: { ACKNOWLEDGEMENTS: values.acknowledgements },
  })
  console.log(report(oracle))
  if (oracle.wrong.length > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
