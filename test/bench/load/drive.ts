import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Sql } from '../../../src/platform/postgres.ts'
import { parentOf, peakMb, processorUs, resetPeaks } from './accounting.ts'
import type { LoadResult, Plan } from './plan.ts'

const generator = fileURLToPath(new URL('./generator.ts', import.meta.url))

/** The server and the database whose costs are accounted for. */
export type Watched = {
  /** The server; its children count too. */
  readonly pid?: number
  /** A connection to its database, which has pg_stat_statements in the schema `bench`. */
  readonly sql?: Sql
  /** Counts of decisions by tier, so far. */
  readonly tiers?: () => Promise<Tiers | undefined>
}

export type Tiers = { readonly total: number; readonly l1: number; readonly l2: number }

export type Costs = {
  readonly cpuUs?: number
  readonly postgresCpuUs?: number
  /** Statements in Postgres, without those that begin and end transactions. */
  readonly statements?: number
  readonly peakMb?: number
  /** Shares of the decisions that memory answered, and that memory or Redis answered. */
  readonly l1Share?: number
  readonly cachedShare?: number
}

/** Totals of a measurement, and what one request cost. */
export type Driven = LoadResult & { readonly costs: Costs }

type Snapshot = {
  readonly cpuUs: number
  readonly postgresCpuUs: number
  readonly statements: number
  readonly tiers: Tiers | undefined
}

const postmasters = new WeakMap<Sql, number | undefined>()

const postmasterOf = async (sql: Sql): Promise<number | undefined> => {
  if (!postmasters.has(sql)) {
    const [row] = await sql<{ pid: number; local: boolean }[]>`
      select pg_backend_pid() as pid, coalesce(inet_server_addr() <<= '127.0.0.0/8', true) as local`
    postmasters.set(sql, row?.local ? parentOf(row.pid) : undefined)
  }
  return postmasters.get(sql)
}

/** Counted by pg_stat_statements, at once; this statement not. */
const statementsOf = async (sql: Sql): Promise<number> => {
  const [row] = await sql<{ statements: number }[]>`
    select sum(calls)::float8 as statements from bench.pg_stat_statements where query not like '%pg_stat_statements%'`
  return row?.statements ?? 0
}

const takeSnapshot = async ({ pid, sql, tiers }: Watched): Promise<Snapshot> => {
  const cpuUs = pid === undefined ? 0 : processorUs(pid)
  const [postmaster, statements, byTier] = await Promise.all([
    sql && postmasterOf(sql),
    sql === undefined ? 0 : statementsOf(sql),
    tiers?.(),
  ])
  const postgresCpuUs = postmaster === undefined ? 0 : processorUs(postmaster)
  return { cpuUs, postgresCpuUs, statements, tiers: byTier }
}

const costsOf = (watched: Watched, before: Snapshot, after: Snapshot, answered: number): Costs => {
  const each = (field: 'cpuUs' | 'postgresCpuUs' | 'statements') => (after[field] - before[field]) / answered
  const decided = (field: keyof Tiers) => (after.tiers?.[field] ?? 0) - (before.tiers?.[field] ?? 0)
  return {
    ...(watched.pid !== undefined && { cpuUs: each('cpuUs'), peakMb: peakMb(watched.pid) }),
    ...(watched.sql !== undefined && { postgresCpuUs: each('postgresCpuUs'), statements: each('statements') }),
    ...(before.tiers !== undefined &&
      after.tiers !== undefined &&
      decided('total') > 0 && {
        l1Share: decided('l1') / decided('total'),
        cachedShare: (decided('l1') + decided('l2')) / decided('total'),
      }),
  }
}

type Output = { onBegin: () => Promise<void>; onEnd: () => Promise<void> }

const runGenerator = async (file: string, { onBegin, onEnd }: Output): Promise<LoadResult> => {
  const child = Bun.spawn([process.execPath, generator, file], { stdout: 'pipe', stderr: 'inherit' })
  let text = ''
  let seen = 0
  const reader = new TextDecoder()
  for await (const chunk of child.stdout) {
    text += reader.decode(chunk, { stream: true })
    if (seen === 0 && text.startsWith('begin\n')) {
      seen = 1
      await onBegin()
    }
    if (seen === 1 && text.startsWith('begin\nend\n')) {
      seen = 2
      await onEnd()
    }
  }
  if ((await child.exited) !== 0) throw new Error('The load generator failed')
  return JSON.parse(text.slice('begin\nend\n'.length)) as LoadResult
}

/** Sends the plan from a separate process, and accounts for its cost to the server. */
export const drive = async (plan: Plan, watched: Watched): Promise<Driven> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-load-'))
  try {
    const file = join(folder, 'plan.json')
    await writeFile(file, JSON.stringify(plan))
    if (watched.pid !== undefined) resetPeaks(watched.pid)
    let before: Snapshot | undefined
    let after: Snapshot | undefined
    const result = await runGenerator(file, {
      onBegin: async () => {
        before = await takeSnapshot(watched)
      },
      onEnd: async () => {
        after = await takeSnapshot(watched)
      },
    })
    if (before === undefined || after === undefined) throw new Error('The load generator ended too early')
    return { ...result, costs: costsOf(watched, before, after, result.answered) }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
