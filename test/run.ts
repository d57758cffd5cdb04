import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startCluster } from './harness/database.ts'
import { reapAll, reapFolder, reapProcess } from './harness/reaper.ts'
import { redis } from './harness/redis.ts'
import { addSummaries, failuresIn, findTestFiles, guessTimings, needsNoServer, summarise } from './harness/suite.ts'

/**
 * `bun test/run.ts [--checks] [--unit] [--workers N] [path...]` runs the tests among and below the paths, by default all.
 *
 * One Postgres cluster and one Redis are started here and handed to all test processes. Files run in parallel; those that
 * measure throughput or time run afterwards. `--checks` adds the type check and the linter, beside the tests. `--unit` leaves out
 * files that start a server or a process. `--record` writes how long each file took, by which the slowest start first; a file
 * without a time counts as the mean of its folder.
 * The output ends with what failed; the exit code is 0 only if nothing did and every file ran.
 */
const { values: options, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    checks: { type: 'boolean', default: false },
    unit: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    // Tests wait more than they compute: more workers than cores keep both cores of a small machine busy.
    workers: { type: 'string', default: '4' },
  },
})

const root = fileURLToPath(new URL('..', import.meta.url))
const timings = 'test/timings.json'

/** Asserts elapsed time: beside others it would measure the machine. It runs last, alone. */
const measuresTime = 'test/faults/login-flood.test.ts'
/** Asserts the memory of its process. It has a process of its own. */
const measuresMemory = 'test/kit/ttl-map.test.ts'
/** Must reach a throughput that takes one core. Beside it only files run that keep the other core busy and no more. */
const needsACore = 'test/consistency/storm.test.ts'
/** `postgres-gone` asserts deadlines, with slack, and mostly waits for them. */
const besideIt = new Set(['test/access/listing.test.ts', 'test/faults/postgres-gone.test.ts'])
const usesOneCore = (file: string) => besideIt.has(file) || needsNoServer(join(root, file))

type Outcome = { name: string; code: number; output: string }

const children = new Set<ChildProcess>()

/** Runs a program to its end. `live`: its output is also shown as it comes. */
const run = (name: string, live: boolean, [command = '', ...args]: string[], env: Record<string, string> = {}) => {
  const child = spawn(command, args, { cwd: root, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  children.add(child)
  if (child.pid !== undefined) reapProcess(child.pid)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (chunk: string) => {
      output += chunk
      if (live) process.stdout.write(chunk)
    })
  }
  return new Promise<Outcome>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => {
      children.delete(child)
      resolve({ name, code: code ?? 1, output })
    })
  })
}

const tool = (name: string) => join(root, 'node_modules', '.bin', name)

const startChecks = (): Promise<Outcome>[] =>
  options.checks
    ? [
        run('type check', false, [tool('tsc'), '--noEmit']),
        run('lint', false, [tool('biome'), 'ci', '--error-on-warnings']),
      ]
    : []

const test = (name: string, files: readonly string[], flags: readonly string[], env: Record<string, string>) => {
  const paths = files.map((file) => `./${file}`)
  return run(name, true, [process.execPath, 'test', '--timeout', '60000', ...flags, ...paths], env)
}

/** What all test processes share, as the environment variables that name it. */
const startShared = async (): Promise<Record<string, string>> => {
  const [connection, { url }] = await Promise.all([startCluster(), redis()])
  return { TEST_CLUSTER: JSON.stringify(connection), REDIS_URL: url }
}

/** The name of a file with the time of each test file, recorded or guessed. */
const writeTimings = async (files: readonly string[]): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-timings-'))
  reapFolder(folder)
  const path = join(folder, 'timings.json')
  await writeFile(path, JSON.stringify(guessTimings(JSON.parse(readFileSync(join(root, timings), 'utf8')), files)))
  return path
}

const runTests = async (files: readonly string[]): Promise<Outcome[]> => {
  const env = options.unit ? {} : await startShared()
  const only = (one: string) => files.filter((file) => file === one)
  const others = files.filter((file) => file !== measuresTime && file !== measuresMemory)
  const half = others.includes(needsACore) ? others.filter((file) => file === needsACore || usesOneCore(file)) : []
  const rest = others.filter((file) => !half.includes(file))
  // A worker keeps the modules it loaded from file to file: loading the application takes half a second.
  const times = options.record
    ? [`--timings=${timings}`, '--update-timings']
    : [`--timings=${await writeTimings(files)}`]
  const shared = ['--no-isolate', ...times]
  /** Phases run one after the other, the processes of a phase side by side. */
  const phases = [
    [{ name: 'tests', files: rest, flags: [`--parallel=${options.workers}`, ...shared] }],
    [
      { name: 'the storm, and tests beside it', files: half, flags: ['--parallel=2', ...shared] },
      { name: 'the test that measures memory', files: only(measuresMemory), flags: [] },
    ],
    [{ name: 'the test that measures time', files: only(measuresTime), flags: [] }],
  ]
  const outcomes: Outcome[] = []
  for (const phase of phases) {
    const running = phase
      .filter(({ files }) => files.length > 0)
      .map(({ name, files, flags }) => {
        console.log(`\n${name}: ${files.length} files`)
        return test(name, files, flags, env)
      })
    outcomes.push(...(await Promise.all(running)))
  }
  return outcomes
}

const report = (files: readonly string[], tests: readonly Outcome[], checks: readonly Outcome[]): number => {
  const total = addSummaries(tests.map(({ output }) => summarise(output)))
  const missing = files.length - total.files
  const failed = [
    ...checks.filter(({ code }) => code !== 0).map(({ name, output }) => `${name}\n${output.trim()}`),
    ...tests.flatMap(({ output }) => failuresIn(output)),
    ...(missing === 0 ? [] : [`${missing} of ${files.length} files did not run`]),
    ...tests.filter(({ code }) => code !== 0).map(({ name, code }) => `${name}: exit code ${code}`),
  ]
  if (failed.length > 0) console.log(`\nFailed:\n${failed.map((line) => `  ${line}`).join('\n')}`)
  const checked = checks.map(({ name, code }) => `${name} ${code === 0 ? 'passed' : 'failed'}, `).join('')
  console.log(
    `\n${checked}${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped, ` +
      `${total.expectCalls} expect() calls, ${total.files} files, ${(performance.now() / 1_000).toFixed(1)} s`,
  )
  return failed.length === 0 ? 0 : 1
}

const end = async (code: number) => {
  for (const child of children) child.kill('SIGKILL')
  await reapAll()
  process.exit(code)
}
process.once('SIGINT', () => end(130))
process.once('SIGTERM', () => end(143))

try {
  if (!existsSync(join(root, 'node_modules'))) throw new Error('run `bun install` first')
  const found = findTestFiles(root, positionals.length > 0 ? positionals : ['test'])
  const files = options.unit ? found.filter((file) => needsNoServer(join(root, file))) : found
  const checks = startChecks()
  const tests = await runTests(files)
  await end(report(files, tests, await Promise.all(checks)))
} catch (error) {
  console.error(error)
  await end(1)
}
