import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

/** The test files among and below the paths, relative to `root`, sorted. Throws if a path leads to none. */
export const findTestFiles = (root: string, paths: readonly string[]): string[] => {
  const found = paths.flatMap((path) => {
    const absolute = resolve(root, path)
    if (!existsSync(absolute)) throw new Error(`${path} does not exist`)
    const files = statSync(absolute).isDirectory()
      ? [...new Bun.Glob('**/*.test.ts').scanSync(absolute)].map((file) => join(absolute, file))
      : [absolute]
    if (files.length === 0) throw new Error(`${path} holds no file named *.test.ts`)
    return files.map((file) => relative(root, file))
  })
  return [...new Set(found)].toSorted()
}

/** Modules of the harness that start Postgres, Redis, an S3 server or a process of the application. */
const starters = /\/harness\/(?:app|cluster|database|redis|s3|server)\.ts$/
const startsAProcess = /'node:child_process'|\bBun\.spawn/

/** Whether a test file and all modules of test/ it imports start neither a server nor a process. */
export const needsNoServer = (file: string): boolean => {
  const seen = new Set<string>()
  const pending = [resolve(file)]
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (seen.has(next) || !/\/test\//.test(next)) continue
    seen.add(next)
    const text = readFileSync(next, 'utf8')
    if (starters.test(next) || startsAProcess.test(text)) return false
    const folder = dirname(next)
    pending.push(
      ...[...text.matchAll(/^(?:import|export)\b[^'`;]*?from '(\.[^']+)'/gm)].map(([, path = '']) =>
        join(folder, path),
      ),
    )
  }
  return true
}

/** How long each file took, in milliseconds, as `bun test --timings` reads it. */
export type Timings = { readonly version: number; readonly files: Readonly<Record<string, number>> }

const mean = (times: readonly number[]): number =>
  times.length === 0 ? 0 : Math.round(times.reduce((sum, time) => sum + time, 0) / times.length)

/**
 * Timings of all these files: one that has none is taken for as slow as the mean of its folder, or of all files where its
 * folder has none either. Without a time it would start last, and a slow one alone at the end.
 */
export const guessTimings = ({ version, files: known }: Timings, files: readonly string[]): Timings => {
  const byFolder = Map.groupBy(Object.entries(known), ([file]) => dirname(file))
  const meanOf = (folder: string) => mean((byFolder.get(folder) ?? Object.entries(known)).map(([, time]) => time))
  return { version, files: Object.fromEntries(files.map((file) => [file, known[file] ?? meanOf(dirname(file))])) }
}

export type Summary = { passed: number; failed: number; skipped: number; expectCalls: number; files: number }

const plain = (text: string) => Bun.stripANSI(text)

/** The counts at the end of what `bun test` wrote. A run that did not reach its end ran no file and counts as one failure. */
export const summarise = (output: string): Summary => {
  const text = plain(output)
  const end = /^Ran \d+ tests? across (\d+) files?/m.exec(text)
  if (end === null) return { passed: 0, failed: 1, skipped: 0, expectCalls: 0, files: 0 }
  // The last line with the word: a test may print one like it.
  const count = (word: string) => Number([...text.matchAll(new RegExp(`^ *(\\d+) ${word}`, 'gm'))].at(-1)?.[1] ?? 0)
  return {
    passed: count('pass$'),
    failed: count('fail$') + count('errors?$'),
    skipped: count('skip$') + count('todo$'),
    expectCalls: count('expect\\(\\) calls'),
    files: Number(end[1]),
  }
}

export const addSummaries = (summaries: readonly Summary[]): Summary =>
  summaries.reduce((sum, one) => ({
    passed: sum.passed + one.passed,
    failed: sum.failed + one.failed,
    skipped: sum.skipped + one.skipped,
    expectCalls: sum.expectCalls + one.expectCalls,
    files: sum.files + one.files,
  }))

/** One line for each failed test, crashed worker and file that could not be loaded. */
export const failuresIn = (output: string): string[] => {
  const failures = new Set<string>()
  let file = ''
  for (const line of plain(output).split('\n')) {
    if (/^test\/\S+\.test\.ts:$/.test(line)) file = line
    else if (/^\d+ tests? failed:$/.test(line)) break
    else if (/^(?:\(fail\)|✗) /.test(line) || /^# Unhandled error/.test(line)) failures.add(`${file} ${line}`)
  }
  return [...failures]
}
