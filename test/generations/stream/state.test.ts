import { describe, expect, test } from 'bun:test'
import {
  diffEvents,
  parseEventId,
  type SentState,
  type State,
  toEventId,
} from '../../../src/generations/stream/state.ts'

const queued: State = { status: 'queued', attempt: 0, progress: null, position: 3 }
const processing: State = { status: 'processing', attempt: 1, progress: 250, position: null }

const eventsBetween = (sent: SentState | undefined, current: State) =>
  diffEvents(sent, current).events.map(({ event, data }) => [event, data])

describe('diffEvents', () => {
  test('returns the whole known state for a client that was sent nothing', () => {
    expect(eventsBetween(undefined, queued)).toEqual([
      ['status', { status: 'queued', attempt: 0 }],
      ['position', { position: 3 }],
    ])
    expect(eventsBetween(undefined, processing)).toEqual([
      ['status', { status: 'processing', attempt: 1 }],
      ['progress', { progress: 0.25 }],
    ])
    expect(eventsBetween(undefined, { ...queued, position: null })).toHaveLength(1)
  })

  test('returns only what changed', () => {
    expect(eventsBetween(queued, queued)).toEqual([])
    expect(eventsBetween(queued, { ...queued, position: 2 })).toEqual([['position', { position: 2 }]])
    expect(eventsBetween(processing, { ...processing, progress: 300 })).toEqual([['progress', { progress: 0.3 }]])
    expect(eventsBetween(processing, { ...processing, progress: 200 })).toEqual([])
    expect(eventsBetween(queued, processing)).toEqual([
      ['status', { status: 'processing', attempt: 1 }],
      ['progress', { progress: 0.25 }],
    ])
  })

  test('restarts progress with another attempt, however far the previous one was', () => {
    expect(eventsBetween(processing, { ...processing, attempt: 2, progress: 0 })).toEqual([
      ['status', { status: 'processing', attempt: 2 }],
      ['progress', { progress: 0 }],
    ])
  })

  test('continues after any of its events from the id of that event alone', () => {
    for (const [before, current] of [
      [undefined, queued],
      [undefined, processing],
      [queued, processing],
    ] as const) {
      const { events, sent } = diffEvents(before, current)
      expect(sent).toEqual(current)
      for (const [index, { id }] of events.entries()) {
        const received = parseEventId(id)
        expect(received).toBeDefined()
        expect(diffEvents(received, current).events).toEqual(events.slice(index + 1))
      }
    }
  })
})

describe('an event id', () => {
  test('round-trips the state it encodes', () => {
    for (const state of [queued, processing, { ...processing, progress: 0 }, { ...queued, position: null }]) {
      expect(parseEventId(toEventId(state))).toEqual(state)
    }
    for (const status of ['completed', 'failed', 'cancelled'] as const) {
      const final = { status, attempt: 0, progress: null, position: null }
      expect([toEventId(final), parseEventId(status)]).toEqual([status, final])
    }
  })

  test('in an unknown format is ignored', () => {
    const bad = ['', 'queued', 'processing', 'queued.0.-', 'queued.0.-.-.-', 'queued.-1.-.-', 'processing.1.99999.-']
    for (const id of [null, ...bad, 'Completed', 'completed\n', 'paused.1.-.-', '42', '💥', 'x'.repeat(100_000)]) {
      expect([id, parseEventId(id)]).toEqual([id, undefined])
    }
  })
})
