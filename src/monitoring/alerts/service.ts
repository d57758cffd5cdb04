import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { newId } from '../../kit/id.ts'
import type { Log } from '../../platform/log.ts'
import type { Figures } from '../figures.ts'
import { type AlertMetric, type AlertState, alertMetrics, evaluate, figureOf } from './evaluator.ts'
import type { Alert, AlertQuery } from './model.ts'
import type { AlertRow, AlertStore } from './store.ts'

/** Interval between evaluations. */
export const alertMs = 1_000
/** After this time another instance evaluates in place of one that is gone. */
const leaseMs = 10_000
/** The caches of a new instance are empty. */
const usualWarmUpMs = 60_000

const calm: AlertState = { alert: undefined, calmSinceMs: undefined }

const toAlert = (row: AlertRow): Alert => ({
  id: row.id,
  metric: row.metric,
  severity: row.severity,
  status: row.cleared_at === null ? 'open' : 'cleared',
  value: row.value,
  target: row.target,
  samples: Number(row.samples),
  opened_at: row.opened_at.toISOString(),
  raised_at: row.raised_at?.toISOString() ?? null,
  cleared_at: row.cleared_at?.toISOString() ?? null,
})

type Dependencies = {
  readonly store: AlertStore
  /** The figures of all instances. */
  readonly read: () => Promise<Pick<Figures, 'windows'>>
  readonly instance: string
  readonly clock: Clock
  /** For how long the instance evaluates nothing. Default 60,000. */
  readonly warmUpMs?: number
  readonly log: Pick<Log, 'warn' | 'info'>
}

/**
 * Opens an alert while a metric of all instances together is far above its target; see `evaluate`.
 *
 * Guarantee: one instance evaluates at a time, once a second, and at most one alert of a metric is open. When it is gone,
 * another one goes on within 11 s: it knows the open alerts, and counts anew how long they have been calm. Webhooks of
 * operators get each change, because triggers record it in the same transaction. An instance evaluates nothing in its first
 * minute, in which it fills its caches.
 *
 * Degrades: while Postgres is away no alert opens or clears.
 */
export const createAlerts = ({ store, read, instance, clock, log, warmUpMs = usualWarmUpMs }: Dependencies) => {
  const startedMs = clock.monotonic()
  let states = new Map<AlertMetric, AlertState>()
  let leaseUntilMs = Number.NEGATIVE_INFINITY
  let evaluating: Promise<void> | undefined
  let isClosed = false

  const loadStates = async () => {
    const open = await store.listOpen()
    states = new Map(
      open.map(({ metric, severity, value }) => [
        metric,
        { alert: { severity, worst: value }, calmSinceMs: undefined },
      ]),
    )
  }

  /** Whether this instance evaluates. */
  const holdLease = async (): Promise<boolean> => {
    const askedMs = clock.monotonic()
    if (askedMs < leaseUntilMs - leaseMs / 2) return true
    const wasHeld = askedMs < leaseUntilMs
    leaseUntilMs = Number.NEGATIVE_INFINITY
    if (!(await store.lease(instance, leaseMs))) return false
    if (!wasHeld) await loadStates()
    leaseUntilMs = askedMs + leaseMs
    return true
  }

  const evaluateMetric = async (metric: AlertMetric, windows: Figures['windows']): Promise<void> => {
    const before = states.get(metric) ?? calm
    const figure = figureOf(windows['10s'], metric)
    const { state, change } = evaluate(before, figure, clock.monotonic())
    const at = new Date(clock.now())
    const { alert } = state
    if (change === 'cleared') await store.clear(metric, before.alert?.worst ?? 0, at)
    else if (change !== undefined && alert !== undefined && figure !== undefined) {
      const { severity } = alert
      if (change === 'opened') await store.open({ ...figure, metric, severity, at }, newId())
      else await store.raise({ ...figure, metric, severity, at })
    }
    // After the statement: where it failed, the next evaluation repeats it.
    states.set(metric, state)
    if (change === undefined) return
    const fields = { event: `alert.${change}`, metric, ...(alert ?? before.alert), ...figure }
    if (change === 'cleared') log.info(fields, 'a metric is near its target again')
    else log.warn(fields, 'a metric is far above its target')
  }

  const evaluateAll = async (): Promise<void> => {
    if (isClosed || clock.monotonic() - startedMs < warmUpMs || !(await holdLease())) return
    const { windows } = await read()
    for (const metric of alertMetrics) await evaluateMetric(metric, windows)
  }

  return {
    /** One evaluation. A call while one is under way waits for it, and starts none. */
    evaluate: (): Promise<void> => {
      evaluating ??= evaluateAll().finally(() => {
        evaluating = undefined
      })
      return evaluating
    },
    /** Evaluates no more, and lets another instance do it at once. */
    close: async (): Promise<void> => {
      isClosed = true
      await evaluating?.catch(() => {})
      if (leaseUntilMs === Number.NEGATIVE_INFINITY) return
      await store.release(instance).catch(() => {})
    },
    purge: store.purge,

    list: async (
      context: RequestContext,
      place: { readonly after: string | null; readonly limit: number },
      { status, metric, severity }: AlertQuery,
    ) => {
      const rows = await store.list(context.deadline, { ...place, status, metric, severity })
      const { items, next_cursor } = toPage(rows, place.limit)
      return { items: items.map(toAlert), next_cursor }
    },
  }
}

export type Alerts = ReturnType<typeof createAlerts>
