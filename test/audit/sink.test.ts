import { describe, expect, test } from 'bun:test'
import type { StoredDenials } from '../../src/audit/denials.ts'
import type { AuditActor } from '../../src/audit/event.ts'
import { createAuditSource, type PreparedEvent } from '../../src/audit/event.ts'
import { createAuditSink } from '../../src/audit/sink.ts'
import type { SinkStore, StoredPart } from '../../src/audit/sink-store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { createKeyedHash } from '../../src/platform/secrets.ts'

const source = createAuditSource(createKeyedHash((name) => Buffer.from(name.padEnd(32))))
const actor = { userId: newId(), sessionId: newId() }
const about = (id: string, action = 'read') => ({
  actor,
  userId: actor.userId,
  action,
  resource: { type: 'project', id },
})

const createWorld = (limits: { queued?: number; allows?: number } = {}) => {
  const clock = manualClock(0)
  const lines: string[] = []
  const events: PreparedEvent[] = []
  const parts: StoredPart[] = []
  const state = { failure: undefined as Error | undefined }
  const store: SinkStore = {
    write: async (given, denied) => {
      if (state.failure !== undefined) throw state.failure
      events.push(...given)
      if (denied !== undefined) parts.push(denied)
    },
    closeMinute: async () => 0,
  }
  const log = createLog('info', { write: (line: string) => void lines.push(line) })
  const alarms: number[] = []
  const onDropped = (dropped: number) => void alarms.push(dropped)
  const sink = createAuditSink({ store, source, clock, log, limits, random: () => 0.5, onDropped })
  const stored = () => parts.flatMap(({ content }) => JSON.parse(content) as StoredDenials[])
  const counted = () =>
    stored().flatMap(({ denials }) => denials.map(([decision, count]) => [decision, count] as const))
  return { sink, clock, lines, events, stored, counted, state, alarms }
}
const gone = Object.assign(new Error('the connection was refused'), { code: 'ECONNREFUSED' })

describe('the queue of audit events', () => {
  test('writes every denied decision, equal ones with their count', async () => {
    const { sink, counted } = createWorld()
    const [one, other] = [newId(), newId()]
    for (let time = 0; time < 3; time += 1) sink.decided(false, 'default.deny', about(one), undefined)
    sink.decided(false, 'default.deny', about(other), undefined)
    sink.decided(false, 'default.deny', about(one, 'write'), undefined)
    await sink.flush()
    expect(Object.fromEntries(counted())).toEqual({
      [`read project default.deny ${one}`]: 3,
      [`read project default.deny ${other}`]: 1,
      [`write project default.deny ${one}`]: 1,
    })
  })

  test('counts the denials of each asker apart: a person, a service, and people for whom a service acts', async () => {
    const { sink, stored } = createWorld()
    const [ada, ben, keyId, resource] = [newId(), newId(), newId(), { type: 'project', id: newId() }]
    const acting = { service: { keyId }, sessionId: keyId, plan: 'free' }
    const askers: readonly (readonly [AuditActor, string])[] = [
      [{ userId: ada, sessionId: newId() }, ada],
      [{ userId: ada, sessionId: newId() }, ada],
      [{ userId: ada, sessionId: newId() }, ben],
      [{ keyId }, ada],
      [{ keyId }, ben],
      [{ userId: ada, ...acting }, ada],
      [{ userId: ben, ...acting }, ben],
      ['anonymous', ada],
    ]
    // Asker 1 is denied once, asker 2 twice, and so on.
    for (const [at, [actor, userId]] of askers.entries())
      for (let time = 0; time <= at; time += 1)
        sink.decided(false, 'default.deny', { actor, userId, action: 'read', resource }, undefined)
    await sink.flush()
    const found = stored().sort((one, other) => (one.denials[0]?.[1] ?? 0) - (other.denials[0]?.[1] ?? 0))
    expect(found.map(({ denials }) => denials.map(([, count]) => count))).toEqual(askers.map((_, at) => [at + 1]))
    expect(found.map(({ user_id }) => user_id)).toEqual(askers.map(([, userId]) => userId))
    // Of the caller nothing is stored but who it is.
    expect(found[0]?.actor).toEqual(askers[0]?.[0])
    expect(found[5]?.actor).toEqual({ userId: ada, sessionId: keyId, service: { keyId } })
  })

  test('samples allowed decisions by their rate, each with how many it stands for', async () => {
    const { sink, clock, events } = createWorld({ allows: 10 })
    const ask = (times: number) => {
      for (let time = 0; time < times; time += 1)
        if (sink.samples()) sink.decided(true, 'team.granted', about(newId()), undefined)
    }
    ask(1_000)
    clock.advance(1_000)
    await sink.flush()
    events.length = 0
    ask(10_000)
    await sink.flush()
    const stoodFor = events.reduce((sum, { event }) => sum + event.count, 0)
    expect(events.length).toBeGreaterThan(20)
    expect(events.length).toBeLessThan(200)
    expect(Math.abs(stoodFor - 10_000)).toBeLessThan(2_500)
  })

  test('keeps what Postgres did not take, up to its bound, counts the rest, and says so in the log and in an event', async () => {
    const { sink, state, counted, events, lines, alarms } = createWorld({ queued: 100 })
    state.failure = gone
    for (let time = 0; time < 250; time += 1) sink.decided(false, 'default.deny', about(newId()), undefined)
    await expect(sink.flush()).rejects.toThrow('refused')
    expect(sink.figures).toMatchObject({ dropped: 150 })
    expect(sink.figures.queued).toBeLessThanOrEqual(101)
    expect(lines.join('')).toContain('audit.decisions_dropped')
    expect(alarms).toEqual([150])
    state.failure = undefined
    await sink.flush()
    expect(counted().length).toBeGreaterThanOrEqual(99)
    expect(events.map(({ event }) => [event.action, event.after])).toEqual([
      ['audit.decisions_dropped', JSON.stringify({ dropped: 150 })],
    ])
    expect(sink.figures.queued).toBe(0)
  })

  test('drops a batch that Postgres refuses for its content, so that later ones are written', async () => {
    const { sink, state, counted } = createWorld()
    state.failure = Object.assign(new Error('invalid input'), { code: '22P02', severity: 'ERROR' })
    sink.decided(false, 'default.deny', about(newId()), undefined)
    await expect(sink.flush()).rejects.toThrow('invalid input')
    state.failure = undefined
    sink.decided(false, 'default.deny', about(newId()), undefined)
    await sink.flush()
    expect(counted()).toHaveLength(1)
    expect(sink.figures.dropped).toBe(1)
  })
})
