import { describe, expect, test } from 'bun:test'
import type { IncidentReport } from '../../src/incidents/report.ts'
import { createIncidentReports } from '../../src/incidents/reports.ts'
import type { CollectedReport } from '../../src/incidents/store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import type { Log } from '../../src/platform/log.ts'

const forged = (id = 'redis', rest: Partial<IncidentReport> = {}): IncidentReport => ({
  kind: 'cache.entry_forged',
  severity: 'high',
  subject: { type: 'dependency', id },
  evidence: { key: 'account' },
  ...rest,
})

/** Reports that are stored by a function of the test. */
const collect = (store?: (reports: readonly CollectedReport[]) => Promise<void>) => {
  const stored: CollectedReport[][] = []
  const lines: { event?: string }[] = []
  const clock = manualClock()
  const write = (fields: object) => void lines.push(fields)
  const log: Log = { debug: write, info: write, warn: write, error: write }
  const reports = createIncidentReports({
    store: {
      report: async (given) => {
        await store?.(given)
        stored.push([...given])
        return given.map(({ kind, severity, subject }, at) => ({ id: `id-${at}`, kind, severity, subject }))
      },
    },
    clock,
    log,
  })
  return { reports, stored, lines, clock }
}

describe('reports of incidents', () => {
  test('of one kind about one subject are stored as one, with their number, their times and the highest severity', async () => {
    const { reports, stored, clock, lines } = collect()
    const startMs = clock.now()
    reports.open(forged('redis', { severity: 'low' }))
    clock.advance(400)
    reports.open(forged('redis', { severity: 'critical', evidence: { key: 'session' } }))
    clock.advance(100)
    reports.open(forged('redis', { severity: 'medium' }))
    reports.open(forged('postgres'))
    reports.open(forged('redis', { kind: 'dependency.unavailable' }))
    await reports.flush()
    expect(stored).toHaveLength(1)
    expect(stored[0]?.map(({ kind, subject, count }) => [kind, subject.id, count])).toEqual([
      ['cache.entry_forged', 'redis', 3],
      ['cache.entry_forged', 'postgres', 1],
      ['dependency.unavailable', 'redis', 1],
    ])
    expect(stored[0]?.[0]).toMatchObject({
      severity: 'critical',
      firstSeenMs: startMs,
      lastSeenMs: startMs + 500,
      evidence: [
        { at_ms: startMs, details: { key: 'account' } },
        { at_ms: startMs + 400, details: { key: 'session' } },
        { at_ms: startMs + 500, details: { key: 'account' } },
      ],
    })
    expect(lines.map(({ event }) => event)).toEqual(['incident.opened', 'incident.opened', 'incident.opened'])
    await reports.flush()
    expect(stored).toHaveLength(1)
  })

  test('keep the first piece of evidence and the nine latest, each with a bounded number of members and characters', async () => {
    const { reports, stored } = collect()
    for (let number = 0; number < 50; number += 1) reports.open(forged('redis', { evidence: { number } }))
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, at) => [`m${at}`, 'x'.repeat(10_000)]))
    reports.open(forged('postgres', { evidence: many }))
    await reports.flush()
    const [first, second] = stored[0] ?? []
    expect(first?.evidence.map(({ details }) => details['number'])).toEqual([0, 41, 42, 43, 44, 45, 46, 47, 48, 49])
    expect(Object.keys(second?.evidence[0]?.details ?? {})).toHaveLength(20)
    expect(String(second?.evidence[0]?.details['m0'])).toHaveLength(200)
  })

  test('with texts that Postgres or JSON cannot hold are cut and cleaned, and lose no other report', async () => {
    const { reports, stored } = collect()
    reports.open(forged(`a\0b${'é'.repeat(500)}`, { evidence: { text: '\ud800 \0', number: Number.NaN } }))
    reports.open(forged('x', { evidence: { deep: { of: 'objects' } as never, none: undefined as never } }))
    await reports.flush()
    const [first, second] = stored[0] ?? []
    expect(first?.subject.id).toHaveLength(200)
    expect(first?.subject.id.startsWith('abéé')).toBeTrue()
    expect(first?.evidence[0]?.details).toEqual({ text: '\ufffd ', number: 'NaN' })
    expect(second?.evidence[0]?.details).toEqual({ deep: null, none: null })
  })

  test('that are no reports are counted and never thrown into the caller', async () => {
    const { reports, stored, lines } = collect()
    const throwing = {
      get kind(): never {
        throw new Error('no kind')
      },
    }
    for (const wrong of [
      undefined,
      null,
      {},
      throwing,
      forged('x', { kind: 'constructor' as never }),
      forged('x', { severity: 'huge' as never }),
      forged('x', { subject: { type: 'planet' as never, id: 'x' } }),
      forged('x', { subject: { type: 'user', id: 7 as never } }),
      forged('x', { subject: null as never }),
    ]) {
      expect(() => reports.open(wrong as never)).not.toThrow()
    }
    await reports.flush()
    expect(stored).toEqual([])
    expect(reports.counts).toEqual({ reported: 9, opened: 0, dropped: 9 })
    expect(lines.map(({ event }) => event)).toEqual(['incident.reports_dropped'])
  })

  test('that could not be stored are stored by the next flush, together with later ones', async () => {
    let fails = true
    const { reports, stored, clock } = collect(async () => {
      if (fails) throw new Error('Postgres is away')
    })
    const startMs = clock.now()
    reports.open(forged())
    const failing = reports.flush()
    clock.advance(500)
    // Reported while the flush that fails is under way.
    reports.open(forged())
    await expect(failing).rejects.toThrow('Postgres is away')
    fails = false
    clock.advance(500)
    reports.open(forged())
    await reports.flush()
    expect(stored[0]).toMatchObject([{ count: 3, firstSeenMs: startMs, lastSeenMs: startMs + 1_000 }])
  })

  test('that come while a flush is under way are stored after it, and a flush waits for the one under way', async () => {
    const gates: PromiseWithResolvers<void>[] = []
    const { reports, stored } = collect(() => {
      const gate = Promise.withResolvers<void>()
      gates.push(gate)
      return gate.promise
    })
    reports.open(forged('first'))
    const first = reports.flush()
    reports.open(forged('second'))
    const others = [reports.flush(), reports.flush()]
    expect(gates).toHaveLength(1)
    gates[0]?.resolve()
    await first
    while (gates.length < 2) await Promise.resolve()
    let isDone = false
    const all = Promise.all(others).then(() => {
      isDone = true
    })
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve()
    expect(isDone).toBeFalse()
    gates[1]?.resolve()
    await all
    expect(stored.map(([report]) => report?.subject.id)).toEqual(['first', 'second'])
  })

  test('about more than 1,000 subjects between two flushes are dropped and counted, and one line a minute says so', async () => {
    const { reports, stored, lines, clock } = collect()
    for (let number = 0; number < 1_500; number += 1) reports.open(forged(`subject ${number}`))
    reports.open(forged('subject 7'))
    expect(reports.counts.dropped).toBe(500)
    await reports.flush()
    expect(stored[0]).toHaveLength(1_000)
    expect(stored[0]?.[7]?.count).toBe(2)
    const dropped = () => lines.filter(({ event }) => event === 'incident.reports_dropped').length
    expect(dropped()).toBe(1)
    clock.advance(60_001)
    for (let number = 0; number < 1_500; number += 1) reports.open(forged(`later ${number}`))
    expect(dropped()).toBe(2)
  })
})
