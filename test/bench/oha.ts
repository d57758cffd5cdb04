import { homedir } from 'node:os'
import { join } from 'node:path'

/** What to send, and how hard. */
export type Load = {
  readonly url: string
  readonly method?: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: unknown
  readonly connections: number
  readonly seconds: number
  /** A fixed rate; latencies then count from when a request was due. Default: as fast as the answers come. */
  readonly perSecond?: number
}

export type Measured = {
  readonly requests: number
  /** Counts of all responses and errors other than 200, by kind. */
  readonly errors: Readonly<Record<string, number>>
  readonly perSecond: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
}

export class OhaMissing extends Error {
  override readonly name = 'OhaMissing'
}

type OhaReport = {
  summary: { requestsPerSec: number }
  latencyPercentiles: Record<'p50' | 'p95' | 'p99', number | null>
  statusCodeDistribution: Record<string, number>
  errorDistribution: Record<string, number>
}

export const findOha = (): string => {
  const path = Bun.which('oha') ?? Bun.which(join(homedir(), '.cargo/bin/oha'))
  if (path === null) throw new OhaMissing('The load generator oha is not installed: cargo install oha --locked')
  return path
}

const sum = (counts: Readonly<Record<string, number>>) =>
  Object.values(counts).reduce((total, count) => total + count, 0)

const toMs = (seconds: number | null) => (seconds ?? Number.NaN) * 1_000

const toMeasured = ({
  summary,
  latencyPercentiles,
  statusCodeDistribution,
  errorDistribution,
}: OhaReport): Measured => {
  const { 200: _, ...refused } = statusCodeDistribution
  return {
    requests: sum(statusCodeDistribution) + sum(errorDistribution),
    errors: { ...refused, ...errorDistribution },
    perSecond: summary.requestsPerSec,
    p50Ms: toMs(latencyPercentiles.p50),
    p95Ms: toMs(latencyPercentiles.p95),
    p99Ms: toMs(latencyPercentiles.p99),
  }
}

/** Sends the load and waits for requests still under way at the end, so that slow responses count too. */
export const sendLoad = async (oha: string, load: Load): Promise<Measured> => {
  const { url, method = 'GET', headers = {}, body, connections, seconds, perSecond } = load
  const args = [
    ...['--no-tui', '--output-format', 'json', '-z', `${seconds}s`, '-w', '-c', String(connections), '-m', method],
    ...Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]),
    ...(body === undefined ? [] : ['-H', 'content-type: application/json', '-d', JSON.stringify(body)]),
    ...(perSecond === undefined ? [] : ['-q', String(perSecond), '--latency-correction']),
  ]
  const child = Bun.spawn([oha, ...args, url], { stdout: 'pipe', stderr: 'pipe' })
  const [out, complaint, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ])
  if (status !== 0) throw new Error(`oha failed: ${complaint.trim()}`)
  return toMeasured(JSON.parse(out))
}
