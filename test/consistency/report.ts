import type { Oracle, Removal } from './oracle.ts'

const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN

const inMs = (ms: number) => `${ms.toFixed(1)} ms`

const spread = (removals: readonly Removal[]): string => {
  const sorted = removals.map(({ ms }) => ms).sort((one, other) => one - other)
  const [p50, p99, max] = [percentile(sorted, 0.5), percentile(sorted, 0.99), sorted.at(-1) ?? Number.NaN]
  return `${sorted.length} removals, P50 ${inMs(p50)}, P99 ${inMs(p99)}, max ${inMs(max)}`
}

const groupBy = <T>(items: readonly T[], keyOf: (item: T) => string): [string, T[]][] => {
  const groups = new Map<string, T[]>()
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item])
  return [...groups]
}

export const wrongAllows = ({ wrong }: Oracle) => wrong.filter(({ answer }) => answer === 'allow')
export const wrongDenies = ({ wrong }: Oracle) => wrong.filter(({ answer }) => answer !== 'allow' && answer !== 'name')

const oldNames = ({ wrong }: Oracle) => wrong.filter(({ answer }) => answer === 'name')

/** The counts, latencies, events and wrong answers of a storm, as text. */
export const report = (oracle: Oracle): string => {
  const { counts, events, removals, perTier, wrong } = oracle
  const seconds = (events.at(-1)?.atMs ?? 0) / 1_000
  const explained = Object.values(perTier).reduce((sum, count) => sum + count, 0)
  const tiers = Object.entries(perTier).map(([tier, count]) => `${tier} ${((100 * count) / explained).toFixed(1)} %`)
  return [
    `${seconds.toFixed(1)} s: ${counts.checks} checks (${Math.round(counts.checks / seconds)}/s) in ${counts.requests} requests, ` +
      `${counts.allows} allows, ${counts.denies} denies, ${counts.ambiguous} during a change, ${counts.unanswered} unanswered, ${counts.names} reads of a name`,
    `${removals.length} removals (${(removals.length / seconds).toFixed(1)}/s)`,
    ...groupBy(removals, ({ phase }) => phase).map(([phase, some]) => `  ${phase}: ${spread(some)}`),
    `tiers of ${explained} explained: ${tiers.join(', ')}`,
    ...events.map(({ atMs, what }) => `  ${(atMs / 1_000).toFixed(2)} s  ${what}`),
    `wrong allows: ${wrongAllows(oracle).length}, wrong denies: ${wrongDenies(oracle).length}, old names: ${oldNames(oracle).length}`,
    ...groupBy(wrong, ({ answer, after, by }) => `${answer} by ${by} after ${after.replace(/ \(.*/, '')}`).map(
      ([what, some]) => `  ${some.length} ${what}`,
    ),
    ...wrong.slice(0, 15).map((each) => `  ${JSON.stringify(each)}`),
  ].join('\n')
}
