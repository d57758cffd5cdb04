import { createChart } from './charts.js'
import { ago, count, h, ms, names, percent, rate } from './words.js'

const at = (id) => document.getElementById(id)
const put = (id, ...children) => at(id).replaceChildren(...children)
/** One a second, for an hour. */
const maxPoints = 3_600
/** Lines of the audit log. */
const maxEvents = 10

let window = '1m'
let chosen = 'authorization'
let report
/** How long changes waited, of the instance that answered. */
let waits
const charts = {}
/** Figures of the last minute, by metric, for the chart. */
const history = new Map()
const traffic = []

const of = (windows) => windows.find((each) => each.window === window)
const lastMinute = (windows) => windows.find((each) => each.window === '1m')

const tile = (label, value, note) =>
  h('li', {}, h('span', { class: 'muted' }, label), h('b', {}, value), h('small', {}, note))
const grade = (letter, trend) =>
  h('span', { class: `grade ${letter ?? ''}`, title: trend ?? 'too few samples' }, letter ?? '–')

const choose = (metric) => {
  chosen = metric
  showTargets()
  showLatency()
}

const showTargets = () => {
  const times = report.metrics.map(({ metric, target_ms, windows }) => {
    const figures = of(windows)
    const pick = h(
      'button',
      {
        type: 'button',
        'aria-pressed': String(metric === chosen),
        title: 'Show in the chart',
        onclick: () => choose(metric),
      },
      names[metric] ?? metric,
    )
    const cells = [
      ms(figures?.p50_ms),
      ms(figures?.p95_ms),
      ms(figures?.p99_ms),
      ms(target_ms),
      rate(figures?.per_second ?? 0),
    ]
    return h(
      'tr',
      {},
      h('th', { scope: 'row' }, pick),
      h('td', {}, grade(figures?.grade, figures?.trend)),
      ...cells.map((cell) => h('td', { class: 'number' }, cell)),
    )
  })
  const shares = report.shares.map(({ metric, target, windows }) => {
    const figures = of(windows)
    const digits = metric === 'error_rate' ? 2 : 1
    return h(
      'tr',
      {},
      h('th', { scope: 'row' }, names[metric] ?? metric),
      h('td', {}, grade(figures?.grade, figures?.trend)),
      h('td', {}, ''),
      h('td', { class: 'number' }, percent(figures?.value, digits)),
      h('td', {}, ''),
      h('td', { class: 'number' }, `${metric === 'hit_rate' ? '≥' : '≤'} ${percent(target, digits)}`),
      h('td', {}, ''),
    )
  })
  // The button that has the focus is made anew.
  const focused = document.activeElement?.closest?.('#targets tr')?.rowIndex
  at('targets').tBodies[0].replaceChildren(...times, ...shares)
  if (focused) at('targets').rows[focused]?.querySelector('button')?.focus()
}

const latencyLines = [
  { label: 'P50', ink: 'p50' },
  { label: 'P95', ink: 'p95' },
  { label: 'P99', ink: 'p99' },
  { label: 'Target', ink: 'bad', dashed: true },
]
const trafficLines = [
  { label: 'All', ink: 'p95' },
  { label: 'Failed', ink: 'bad' },
]

/** What the lines of a chart are, with their last values; for those who see it and for those who do not. */
const showKey = (id, lines, values, format) => {
  put(
    `${id}-key`,
    ...lines.map(({ label, ink }, line) =>
      h('li', {}, h('i', { class: ink }), `${label} `, h('b', {}, format(values[line]))),
    ),
  )
  at(id).setAttribute('aria-label', lines.map(({ label }, line) => `${label} ${format(values[line])}`).join(', '))
}

const showLatency = () => {
  const { target_ms } = report.metrics.find(({ metric }) => metric === chosen)
  const points = (history.get(chosen) ?? []).map(({ seconds, values }) => ({ seconds, values: [...values, target_ms] }))
  at('latency-title').textContent = `Latency: ${names[chosen]}`
  charts.latency ??= createChart(at('latency'), latencyLines, ms)
  charts.latency.show(points)
  showKey('latency', latencyLines, points.at(-1)?.values ?? [], ms)
}

const perSecond = (value) => (value === null || value === undefined ? '–' : rate(value))

const showTraffic = () => {
  charts.traffic ??= createChart(at('traffic'), trafficLines, perSecond)
  charts.traffic.show(traffic)
  showKey('traffic', trafficLines, traffic.at(-1).values, perSecond)
}

const remember = () => {
  const seconds = Date.parse(report.taken_at) / 1_000
  const keep = (points, values) => {
    if (points.at(-1)?.seconds !== seconds) points.push({ seconds, values })
    if (points.length > maxPoints) points.shift()
  }
  for (const { metric, windows } of report.metrics) {
    const { p50_ms, p95_ms, p99_ms } = lastMinute(windows)
    const points = history.get(metric) ?? []
    history.set(metric, points)
    keep(points, [p50_ms, p95_ms, p99_ms])
  }
  const all = lastMinute(report.metrics.find(({ metric }) => metric === 'api').windows)
  keep(traffic, [all.per_second, all.failed / 60])
}

const showTiles = () => {
  const all = of(report.metrics.find(({ metric }) => metric === 'api').windows)
  const tiers = of(report.tiers)
  const [hitRate, errors] = ['hit_rate', 'error_rate'].map((metric) =>
    of(report.shares.find((share) => share.metric === metric).windows),
  )
  const loop = of(report.event_loop)
  put(
    'tiles',
    tile('Concurrent users', count(report.concurrent_users), 'in the last minute'),
    tile('Requests', rate(all.per_second), 'a second'),
    tile('Failed', percent(errors.value, 2), `${count(all.failed)} of ${count(all.samples)}`),
    tile('Without Postgres', percent(hitRate.value), `of ${count(tiers.decisions.total)} decisions`),
    tile('Stale facts', count(tiers.stale_facts), `of ${count(tiers.facts_compared)} compared`),
    tile('Revocation wait', ms(waits?.p99_ms), 'P99'),
    tile('Event-loop lag', ms(loop?.p99_ms), 'P99'),
  )
}

const tierNames = { l1: 'Memory (L1)', l2: 'Redis (L2)', l3: 'Rows of access (L3)', database: 'Base tables' }
const rows = (entries) =>
  h(
    'dl',
    {},
    ...entries.flatMap(([term, value, key]) => [h('dt', key ? { class: `key ${key}` } : {}, term), h('dd', {}, value)]),
  )

const showCache = () => {
  const { decisions, memory, invalidations, l2_hit_rate, l2_failures, shed } = of(report.tiers)
  const shares = Object.keys(tierNames).map((tier) => [
    tier,
    decisions.total === 0 ? 0 : decisions[tier] / decisions.total,
  ])
  put(
    'cache',
    h(
      'div',
      {
        class: 'stack',
        role: 'img',
        'aria-label': shares.map(([tier, share]) => `${tierNames[tier]} ${percent(share)}`).join(', '),
      },
      ...shares.map(([tier, share]) => h('i', { class: tier, width: `${share * 100}%` })),
    ),
    rows(shares.map(([tier, share]) => [tierNames[tier], decisions.total === 0 ? '–' : percent(share), tier])),
    rows([
      ['Facts found in Redis', percent(l2_hit_rate)],
      ['Commands that Redis failed', count(l2_failures)],
      ['Made untrue by changes', count(memory.invalidated)],
      ['Expired', count(memory.expired)],
      ['Evicted', count(memory.evicted)],
      ['Changes acknowledged', count(invalidations.acknowledged)],
      ['Waited for a silent instance', count(invalidations.lapsed)],
      ['Requests refused under load', count(shed)],
    ]),
  )
}

const meter = (label, busy, size, note) =>
  h(
    'div',
    { class: 'meter' },
    h('span', {}, label),
    h(
      'span',
      { class: 'track', role: 'img', 'aria-label': `${busy} of ${size}` },
      h('i', { width: `${size === 0 ? 0 : (100 * busy) / size}%` }),
    ),
    h('span', { class: 'muted' }, note ?? `${busy} of ${size}`),
  )

const showResources = () => {
  const waiting = report.pools.reduce((sum, pool) => sum + pool.waiting, 0)
  put(
    'resources',
    ...report.pools.map(({ name, busy, max }) => meter(`Pool ${name}`, busy, max)),
    ...report.workers.map(({ name, busy, size }) => meter(`Threads ${name}`, busy, size)),
    rows([
      ['Statements that wait', count(waiting)],
      ['Tasks that wait for a thread', count(report.workers.reduce((sum, worker) => sum + worker.waiting, 0))],
      ['Generations under way', count(report.jobs_running)],
    ]),
  )
}

const item = (...children) => h('li', {}, ...children)
const empty = (text) => h('li', {}, h('span', { class: 'empty' }, text))

export const showHealth = ({ status, mode, components, instances }) => {
  at('mode').textContent = mode
  at('mode-button').classList.toggle('unusual', mode !== 'normal')
  document.title = status === 'up' ? 'Velro dashboard' : `Velro is ${status}`
  put(
    'components',
    ...components.map(({ name, state, since, detail }) =>
      item(
        h('span', { class: `state ${state}` }),
        h('span', { class: 'grow' }, name, detail ? h('span', { class: 'muted' }, ` ${detail}`) : null),
        h('small', { title: `since ${since}` }, state === 'up' ? ago(since) : state),
      ),
    ),
  )
  const { included, missing } = instances
  const notice = [
    missing.length > 0 && `Figures of ${missing.length} of ${included.length + missing.length} instances are missing.`,
    status !== 'up' &&
      `This instance is ${status}: ${components
        .filter(({ state }) => state === 'down' || state === 'degraded')
        .map(({ name }) => name)
        .join(', ')}.`,
  ].filter(Boolean)
  at('notice').hidden = notice.length === 0
  if (at('notice').textContent !== notice.join(' ')) at('notice').textContent = notice.join(' ')
}

const showAdvice = () => {
  at('advice-section').hidden = report.recommendations.length === 0
  put(
    'advice',
    ...report.recommendations.map(({ message, setting }) =>
      item(h('span', { class: 'grow' }, message), setting ? h('code', { class: 'tag' }, setting) : null),
    ),
  )
}

export const showReport = (given) => {
  report = given
  remember()
  redraw()
}

/** Forgets all figures, for the next person at this screen. */
export const clearFigures = () => {
  report = undefined
  waits = undefined
  history.clear()
  traffic.length = 0
  for (const [name, chart] of Object.entries(charts)) {
    chart.remove()
    delete charts[name]
    at(name).removeAttribute('aria-label')
  }
  at('targets').tBodies[0].replaceChildren()
  const lists = ['latency-key', 'traffic-key', 'incidents', 'alerts', 'advice', 'audit', 'components']
  for (const id of ['tiles', 'cache', 'resources', 'defence', 'blocks', 'notice', 'mode', ...lists]) put(id)
  at('notice').hidden = true
  document.title = 'Velro dashboard'
}

const redraw = () => {
  if (report === undefined) return
  showTiles()
  showTargets()
  showLatency()
  showTraffic()
  showCache()
  showResources()
  showAdvice()
}

export const chooseWindow = (name) => {
  window = name
  redraw()
}

export const showIncidents = ({ items }) =>
  put(
    'incidents',
    ...(items.length === 0
      ? [empty('None is open.')]
      : items.map(({ kind, severity, subject, count: times, last_seen_at }) =>
          item(
            h('span', { class: `tag ${severity}` }, severity),
            h('span', { class: 'grow' }, kind, h('span', { class: 'muted' }, ` ${subject.type} ${subject.id}`)),
            h('small', {}, `${times > 1 ? `${count(times)} ×, ` : ''}${ago(last_seen_at)}`),
          ),
        )),
  )

/** Decisions that were sampled would hide the rest. */
export const showAudit = ({ items }) => {
  const events = items.filter(({ action }) => action !== 'access.allowed').slice(0, maxEvents)
  put(
    'audit',
    ...(events.length === 0
      ? [empty(items.length === 0 ? 'Nothing is recorded yet.' : 'Lately only decisions that were allowed.')]
      : events.map(({ action, description, actor, count: times, at: time }) =>
          item(
            h(
              'span',
              { class: 'grow', title: description },
              action,
              h('span', { class: 'muted' }, ` ${actor.kind}${times > 1 ? `, ${count(times)} ×` : ''}`),
            ),
            h('time', { datetime: time }, ago(time)),
          ),
        )),
  )
}

export const showAlerts = ({ items }) =>
  put(
    'alerts',
    ...(items.length === 0
      ? [empty('None is open.')]
      : items.map(({ metric, severity, opened_at }) =>
          item(
            h('span', { class: `tag ${severity}` }, severity),
            h('span', { class: 'grow' }, names[metric] ?? metric),
            h('small', {}, ago(opened_at)),
          ),
        )),
  )

export const showMetrics = ({ bus, limits, audit, anomalies, breakers }) => {
  waits = bus.waits
  const refused = Object.values(limits.budgets).reduce((sum, budget) => sum + budget.refused, 0)
  const open = breakers.filter(({ state }) => state !== 'closed')
  put(
    'defence',
    rows([
      ['Circuit breakers that are open', open.length === 0 ? 'none' : open.map(({ name }) => name).join(', ')],
      ['Requests over a limit', count(refused)],
      ['Under a verdict of the anomaly detection', anomalies === null ? 'off' : count(anomalies.active)],
      ['Audit events that wait', count(audit.queued)],
      ['Audit events that were lost', count(audit.dropped)],
    ]),
  )
}

export const showBlocks = ({ items, next_cursor }) => {
  at('blocks').textContent =
    items.length === 0
      ? 'No address, network, user or key is blocked.'
      : `${count(items.length)}${next_cursor ? ' or more' : ''} blocked.`
}
