import { parseArgs } from 'node:util'
import { findOha, OhaMissing, sendLoad } from './oha.ts'
import { isGood, type Result, toJson, toText } from './report.ts'
import { check } from './scenarios/check.ts'
import { checkUnderLogins } from './scenarios/check-under-logins.ts'
import { explain } from './scenarios/explain.ts'
import { hitRate } from './scenarios/hit-rate.ts'
import { l3 } from './scenarios/l3.ts'
import { limits } from './scenarios/limits.ts'
import { login } from './scenarios/login.ts'
import { redisStalled } from './scenarios/redis-stalled.ts'
import { renders } from './scenarios/renders.ts'
import { revocation } from './scenarios/revocation.ts'
import type { Scenario } from './scenarios/scenario.ts'
import { start } from './scenarios/start.ts'
import { tiers } from './scenarios/tiers.ts'
import { warmUp } from './scenarios/warm-up.ts'
import { endAll } from './servers.ts'

const scenarios: Readonly<Record<string, Scenario>> = {
  check,
  explain,
  login,
  'check-under-logins': checkUnderLogins,
  start,
  l3,
  limits,
  tiers,
  revocation,
  'redis-stalled': redisStalled,
  'warm-up': warmUp,
  'hit-rate': hitRate,
  renders,
}

const usage = `bun run bench [--seconds 3] [--only ${Object.keys(scenarios).join('|')}] [--json]

Measures this machine against itself: only figures of one run may be compared. Set DATABASE_URL to use a Postgres of
your own (the databases made there are dropped again); without it the embedded one is started in a temporary directory.
Ends with 1 when a request failed or a target was missed.`

class Misused extends Error {
  override readonly name = 'Misused'
}

const parseFlags = () => {
  const options = { seconds: { type: 'string' }, only: { type: 'string' }, json: { type: 'boolean' } } as const
  try {
    const { values } = parseArgs({ options })
    const seconds = Number(values.seconds ?? 3)
    if (!(seconds >= 1)) throw new TypeError('--seconds must be a number from 1')
    if (values.only !== undefined && !Object.hasOwn(scenarios, values.only)) {
      throw new TypeError(`There is no scenario "${values.only}"`)
    }
    return { seconds, only: values.only, json: values.json ?? false }
  } catch (error) {
    throw new Misused(`${error instanceof Error ? error.message : error}\n\n${usage}`)
  }
}

const main = async (): Promise<boolean> => {
  const { seconds, only, json } = parseFlags()
  const oha = findOha()
  const results: Result[] = []
  for (const [scenario, measure] of Object.entries(scenarios)) {
    if (only !== undefined && scenario !== only) continue
    try {
      const result = { scenario, ...(await measure({ seconds, send: (load) => sendLoad(oha, { seconds, ...load }) })) }
      results.push(result)
      if (!json) process.stdout.write(toText(result))
    } finally {
      await endAll()
    }
  }
  if (json) console.log(JSON.stringify(results.map(toJson), undefined, 2))
  return results.every(isGood)
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => void endAll().finally(() => process.exit(1)))
}

main().then(
  (good) => process.exit(good ? 0 : 1),
  (error) => {
    console.error(error instanceof OhaMissing || error instanceof Misused ? error.message : error)
    process.exit(1)
  },
)
