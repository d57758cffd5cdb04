import { parseArgs } from 'node:util'
import type { Runtime } from '../harness.ts'
import { runStorm } from './storm.ts'

const { values } = parseArgs({
  options: { requests: { type: 'string', default: '10000' }, runtime: { type: 'string' } },
})
const runtimes: readonly Runtime[] = values.runtime === undefined ? ['bun', 'deno'] : [values.runtime as Runtime]

let hasLeaks = false
for (const runtime of runtimes) {
  const { requests, canaries, statuses, events, leaks } = await runStorm(runtime, { least: Number(values.requests) })
  hasLeaks ||= leaks.length > 0
  console.log(
    `${runtime}: ${requests} requests, ${canaries} secrets, ${events} security events, statuses ${JSON.stringify(statuses)}`,
  )
  for (const leak of leaks) console.log(`  ${leak}`)
  console.log(leaks.length === 0 ? '  no secret was found anywhere' : `  ${leaks.length} leaks`)
}
process.exit(hasLeaks ? 1 : 0)
