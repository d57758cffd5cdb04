import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, loadavg } from 'node:os'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { compareReports } from './compare.ts'
import { sendLoad } from './load/send.ts'
import { PeerMissing } from './peers.ts'
import { isGood, type Report, type Result, toJson, toText } from './report.ts'
import { scenarios } from './scenarios/all.ts'
import { endAll } from './servers.ts'

const usage = `bun run bench [SCENARIO...] [--seconds 3] [--json FILE]
bun run bench beside --beside FOLDER [--set NAME=VALUE...]
bun run bench --compare A.json B.json

Scenarios: ${Object.keys(scenarios).join(', ')}. Default: all of them, about an hour.

Measures this machine against itself: only figures of one run may be compared. Set DATABASE_URL to use a Postgres of
your own (the databases made there are dropped again); without it the embedded one is started in a temporary directory.
--seconds is how long one measurement takes. --json adds the results to the file, and replaces those of the same scenario.
--only NAME[,NAME] says the scenarios too. --beside names another checkout of Velro, installed, for the scenario beside; --set
sets an environment variable of this side. Ends with 1 when a request failed, an answer was stale or a target was missed.`

class Misused extends Error {
  override readonly name = 'Misused'
}

const parseFlags = () => {
  const text = { type: 'string' } as const
  const options = {
    seconds: text,
    only: text,
    json: text,
    beside: text,
    set: { ...text, multiple: true },
    compare: { type: 'boolean' },
    help: { type: 'boolean' },
  } as const
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    if (values.help) return { help: true } as const
    if (values.compare) {
      if (positionals.length !== 2) throw new TypeError('--compare takes two files')
      return { compare: positionals as [string, string] }
    }
    const seconds = Number(values.seconds ?? 3)
    if (!(seconds >= 1)) throw new TypeError('--seconds must be a number from 1')
    const named = [...positionals, ...(values.only?.split(',') ?? [])]
    for (const name of named) {
      if (!Object.hasOwn(scenarios, name)) throw new TypeError(`There is no scenario "${name}"`)
    }
    const settings = Object.fromEntries((values.set ?? []).map((each) => each.split(/=(.*)/s, 2)))
    return {
      seconds,
      named: named.length > 0 ? named : Object.keys(scenarios),
      json: values.json,
      ...(values.beside !== undefined && { other: { folder: resolve(values.beside), settings } }),
    }
  } catch (error) {
    throw new Misused(`${error instanceof Error ? error.message : error}\n\n${usage}`)
  }
}

const readReport = async (file: string): Promise<Report> => JSON.parse(await readFile(file, 'utf8')) as Report

const machine = () => `${availableParallelism()} cores, ${cpus()[0]?.model ?? 'unknown'}, Bun ${Bun.version}`

/** Adds a result to the report in the file, so that it stays when a later scenario fails. */
const save = async (file: string, result: Result, seconds: number, loadAverage: number): Promise<void> => {
  const known = await readReport(file).catch(() => ({ results: [] as Report['results'] }))
  const entry = { ...toJson(result), seconds, loadAverage, machine: machine(), measuredAt: new Date().toISOString() }
  const at = known.results.findIndex(({ scenario }) => scenario === result.scenario)
  const results = at < 0 ? [...known.results, entry] : known.results.with(at, entry)
  await writeFile(file, `${JSON.stringify({ results }, undefined, 2)}\n`)
}

const main = async (): Promise<boolean> => {
  const flags = parseFlags()
  if ('help' in flags) {
    console.log(usage)
    return true
  }
  if ('compare' in flags) {
    const [one, other] = flags.compare
    process.stdout.write(compareReports(await readReport(one), await readReport(other)))
    return true
  }
  const { seconds, named, json, other } = flags
  let good = true
  for (const scenario of named) {
    const measure = scenarios[scenario]
    if (measure === undefined) continue
    const [loadAverage = Number.NaN] = loadavg()
    try {
      const send = (load: Parameters<typeof sendLoad>[0] | Omit<Parameters<typeof sendLoad>[0], 'seconds'>) =>
        sendLoad({ seconds, ...load })
      const result = { scenario, ...(await measure({ seconds, send, ...(other !== undefined && { other }) })) }
      process.stdout.write(toText(result))
      if (json !== undefined) await save(json, result, seconds, loadAverage)
      good &&= isGood(result)
    } catch (error) {
      if (!(error instanceof PeerMissing)) throw error
      console.log(`\n${scenario}: left out. ${error.message}`)
    } finally {
      await endAll()
    }
  }
  return good
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => void endAll().finally(() => process.exit(1)))
}

main().then(
  (good) => process.exit(good ? 0 : 1),
  (error) => {
    console.error(error instanceof Misused ? error.message : error)
    process.exit(1)
  },
)
