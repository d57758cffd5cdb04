import type { Runs } from './interleave.ts'
import type { Measured } from './oha.ts'

export type Unit = 'ratio' | 'share' | 'count' | 'ms' | 'us' | 'ns' | 'MB'
export type Target = { readonly atLeast: number } | { readonly below: number }

/** One figure, seen several times: what counts is the median. */
export type Finding = {
  readonly what: string
  readonly unit: Unit
  readonly values: readonly number[]
  /** None: for information. */
  readonly target?: Target
}

export type Result = {
  readonly scenario: string
  readonly about: string
  readonly sides: readonly Runs[]
  readonly findings: readonly Finding[]
}

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

const isMet = ({ values, target }: Finding): boolean => {
  if (target === undefined) return true
  return 'atLeast' in target ? median(values) >= target.atLeast : median(values) < target.below
}

const summarize = ({ name, runs }: Runs) => {
  const errors: Record<string, number> = {}
  for (const run of runs) {
    for (const [what, count] of Object.entries(run.errors)) errors[what] = (errors[what] ?? 0) + count
  }
  const of = (field: 'perSecond' | 'p50Ms' | 'p95Ms' | 'p99Ms') => median(runs.map((run: Measured) => run[field]))
  return {
    name,
    requests: runs.reduce((total, run) => total + run.requests, 0),
    errors,
    perSecond: of('perSecond'),
    p50Ms: of('p50Ms'),
    p95Ms: of('p95Ms'),
    p99Ms: of('p99Ms'),
  }
}

const countOf = (errors: Record<string, number>) => Object.values(errors).reduce((total, count) => total + count, 0)

/** Whether every request was answered and every target met. */
export const isGood = ({ sides, findings }: Result): boolean =>
  findings.every(isMet) && sides.every((side) => countOf(summarize(side).errors) === 0)

const number = (value: number, digits: number) =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })

const table = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map((row) => row.map((cell, column) => cell[column === 0 ? 'padEnd' : 'padStart'](widths[column] ?? 0)).join('  '))
    .map((line) => `  ${line.trimEnd()}\n`)
    .join('')
}

const sidesText = (sides: readonly Runs[]): string => {
  const all = sides.map(summarize)
  const complaints = all.flatMap(({ name, errors }) =>
    Object.entries(errors).map(([what, count]) => `  ! ${name}: ${count} x ${what}\n`),
  )
  const rows = all.map(({ name, errors, requests, perSecond, ...percentiles }) => [
    name,
    number(countOf(errors), 0),
    number(requests, 0),
    number(perSecond, 0),
    ...[percentiles.p50Ms, percentiles.p95Ms, percentiles.p99Ms].map((ms) => number(ms, 2)),
  ])
  return complaints.join('') + table([['', 'errors', 'requests', 'req/s', 'P50 ms', 'P95 ms', 'P99 ms'], ...rows])
}

const digits = { ratio: 2, share: 3, count: 0, ms: 2, us: 2, ns: 0, MB: 0 } as const
const unnamed: readonly Unit[] = ['ratio', 'share', 'count']

const findingText = (finding: Finding): string[] => {
  const { what, unit, values, target } = finding
  const write = (value: number) => number(value, digits[unit]) + (unnamed.includes(unit) ? '' : ` ${unit}`)
  const range = values.length > 1 ? `${write(Math.min(...values))} to ${write(Math.max(...values))}` : ''
  const wanted = target && ('atLeast' in target ? `at least ${write(target.atLeast)}` : `below ${write(target.below)}`)
  return [what, write(median(values)), range, wanted ?? '', wanted && (isMet(finding) ? 'met' : 'MISSED')].map(
    (cell) => cell ?? '',
  )
}

export const toText = ({ scenario, about, sides, findings }: Result): string => {
  const measured = sides.length > 0 ? `${sidesText(sides)}\n` : ''
  return `\n${scenario}: ${about}\n\n${measured}${table([['', 'median', 'range', 'target', ''], ...findings.map(findingText)])}`
}

export const toJson = ({ scenario, about, sides, findings }: Result) => ({
  scenario,
  about,
  sides: sides.map((side) => ({ ...summarize(side), runs: side.runs })),
  findings: findings.map((finding) => ({ ...finding, median: median(finding.values), met: isMet(finding) })),
})
