import type { Runs } from './interleave.ts'
import type { Costs } from './load/drive.ts'
import type { Measured } from './load/send.ts'

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

const costNames = ['cpuUs', 'postgresCpuUs', 'statements', 'peakMb', 'l1Share', 'cachedShare'] as const

const medianCosts = (runs: readonly Measured[]): Costs =>
  Object.fromEntries(
    costNames.flatMap((name) => {
      const seen = runs.flatMap(({ costs }) => costs?.[name] ?? [])
      return seen.length === 0 ? [] : [[name, name === 'peakMb' ? Math.max(...seen) : median(seen)]]
    }),
  )

/** A generator that is busier than this may be what limits the rate. */
const maxGeneratorCpu = 0.9

const summarize = ({ name, runs }: Runs) => {
  const errors: Record<string, number> = {}
  for (const run of runs) {
    for (const [what, count] of Object.entries(run.errors)) errors[what] = (errors[what] ?? 0) + count
  }
  const of = (field: 'perSecond' | 'p50Ms' | 'p95Ms' | 'p99Ms') => median(runs.map((run: Measured) => run[field]))
  const verdict = (field: 'judged' | 'staleAllows') =>
    runs.reduce((total, { verdicts }) => total + (verdicts?.[field] ?? 0), 0)
  return {
    name,
    errors,
    staleAllows: verdict('staleAllows'),
    judged: verdict('judged'),
    requests: runs.reduce((total, run) => total + run.requests, 0),
    perSecond: of('perSecond'),
    p50Ms: of('p50Ms'),
    p95Ms: of('p95Ms'),
    p99Ms: of('p99Ms'),
    costs: medianCosts(runs),
    generatorCpu: median(runs.flatMap(({ generatorCpu }) => generatorCpu ?? [])),
  }
}

const countOf = (errors: Record<string, number>) => Object.values(errors).reduce((total, count) => total + count, 0)

const isRight = (side: Runs): boolean => {
  const { errors, staleAllows } = summarize(side)
  return staleAllows === 0 && countOf(errors) === 0
}

/** Whether every request was answered, nothing was allowed too late, and every target met. */
export const isGood = ({ sides, findings }: Result): boolean => findings.every(isMet) && sides.every(isRight)

const number = (value: number, digits: number) =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })

const table = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map((row) => row.map((cell, column) => cell[column === 0 ? 'padEnd' : 'padStart'](widths[column] ?? 0)).join('  '))
    .map((line) => `  ${line.trimEnd()}\n`)
    .join('')
}

const complaintsOf = ({ name, errors, judged, staleAllows, generatorCpu }: ReturnType<typeof summarize>): string[] => [
  ...Object.entries(errors).map(([what, count]) => `  ! ${name}: ${count} x ${what}\n`),
  ...(staleAllows > 0 ? [`  ! ${name}: ${staleAllows} stale allows of ${judged} answers that had to be no\n`] : []),
  ...(generatorCpu > maxGeneratorCpu
    ? [`  ! ${name}: the load generator used ${number(100 * generatorCpu, 0)} % of a core and may be the limit\n`]
    : []),
]

const sidesText = (sides: readonly Runs[]): string => {
  const all = sides.map(summarize)
  const cell = (value: number | undefined, digits: number) =>
    value === undefined || Number.isNaN(value) ? '' : number(value, digits)
  const rows = all.map(({ name, errors, requests, perSecond, p50Ms, p95Ms, p99Ms, costs, generatorCpu }) => [
    name,
    number(countOf(errors), 0),
    number(requests, 0),
    number(perSecond, 0),
    ...[p50Ms, p95Ms, p99Ms].map((ms) => number(ms, 2)),
    cell(costs.cpuUs, 1),
    cell(costs.postgresCpuUs, 1),
    cell(costs.statements, 4),
    cell(costs.l1Share, 4),
    cell(costs.cachedShare, 4),
    cell(costs.peakMb, 0),
    cell(generatorCpu, 2),
  ])
  const heading = [
    ...['', 'errors', 'requests', 'req/s', 'P50 ms', 'P95 ms', 'P99 ms', 'CPU us', 'PG CPU us', 'PG stmts', 'memory'],
    ...['cached', 'peak MB', 'gen'],
  ]
  const given = heading.map((_, column) => rows.some((row) => row[column] !== ''))
  const shown = [heading, ...rows].map((row) => row.filter((_, column) => given[column]))
  return all.flatMap(complaintsOf).join('') + table(shown)
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
  sides: sides.map((side) => ({ ...summarize(side), perSecondOfRuns: side.runs.map(({ perSecond }) => perSecond) })),
  findings: findings.map((finding) => ({ ...finding, median: median(finding.values), met: isMet(finding) })),
})

export type Report = {
  readonly results: readonly (ReturnType<typeof toJson> & {
    readonly seconds: number
    /** Of the machine, before the scenario: what else ran on it. */
    readonly loadAverage?: number
    readonly machine: string
    readonly measuredAt: string
  })[]
}

/** The target of a finding; empty without one. */
export const targetOf = (finding: Finding): string => findingText(finding)[3] ?? ''

/** The median with its unit, and the range where it was seen more than once. */
export const findingValue = ({ what, unit, values }: Finding): string => {
  const [, middle = '', range = ''] = findingText({ what, unit, values })
  return range === '' ? middle : `${middle} (${range})`
}

/** The name of each finding in its scenario: those that are set in belong to the one before. */
export const namesOf = (findings: readonly Pick<Finding, 'what'>[]): string[] => {
  let heading = ''
  return findings.map(({ what }) => {
    if (what.startsWith('  ')) return `${heading}: ${what.trim()}`
    heading = what
    return what
  })
}
