import { closed, id, oneOf, pageOf, pageQuery, type Static, t, timestamp } from '../../http/schema-types.ts'
import { shareMetrics, targetMetrics } from '../targets.ts'
import { alertSeverities } from './evaluator.ts'

const metric = {
  ...oneOf([...targetMetrics, ...shareMetrics]),
  description: 'Of all instances together. `hit_rate` is judged by the share of decisions that query Postgres',
}
const severity = {
  ...oneOf(alertSeverities),
  description:
    '`warning`: above 1.5 times the target over 10 seconds with at least 20 samples; `critical`: above 2 times. The highest since the alert opened',
}
const status = oneOf(['open', 'cleared'] as const)

export const alertQuery = closed({
  ...pageQuery,
  status: t.Optional(status),
  metric: t.Optional(metric),
  severity: t.Optional(severity),
})
export type AlertQuery = Static<typeof alertQuery>

export const alert = closed({
  id: id('Alert'),
  metric,
  severity,
  status,
  value: t.Number({
    minimum: 0,
    description:
      'The highest since it opened: milliseconds of the P95; a share of misses for `hit_rate`, of errors for `error_rate`',
  }),
  target: t.Number({ minimum: 0, description: 'At most, in the unit of `value`' }),
  samples: t.Integer({ minimum: 0, description: 'In the window in which it opened, or in which its severity rose' }),
  opened_at: timestamp(),
  raised_at: t.Union([timestamp(), t.Null()], { description: 'When a warning became critical' }),
  cleared_at: t.Union([timestamp(), t.Null()], {
    description: 'When the metric had been below 1.3 times its target, or without 20 samples, for 10 seconds in a row',
  }),
})
export type Alert = Static<typeof alert>
export const alertPage = pageOf(alert)
