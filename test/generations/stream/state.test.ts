import { describe, expect, test } from 'bun:test'
import { newsSince, parseEventId, type State, toEventId } from '../../../src/generations/stream/state.ts'

const queued: State = { status: 'queued', attempt: 0, progress: null, position: 3 }
const begun: State = { status: 'processing', attempt: 1, progress: 250, position: null }

const told = (before: State | undefined, now: State) =>
  newsSince(before, now).news.map(({ event, data }) => [event, data])

describe('what is news', () => {
  test('to somebody who knows nothing is everything that is known', () => {
    expect(told(undefined, queued)).toEqual([
      ['status', { status: 'queued', attempt: 0 }],
      ['position', { position: 3 }],
    ])
    expect(told(undefined, begun)).toEqual([
      ['status', { status: 'processing', attempt: 1 }],
      ['progress', { progress: 0.25 }],
    ])
    expect(told(undefined, { ...queued, position: null })).toHaveLength(1)
  })

  test('is what differs, and nothing is told twice', () => {
    expect(told(queued, queued)).toEqual([])
    expect(told(queued, { ...queued, position: 2 })).toEqual([['position', { position: 2 }]])
    expect(told(begun, { ...begun, progress: 300 })).toEqual([['progress', { progress: 0.3 }]])
    expect(told(begun, { ...begun, progress: 200 })).toEqual([])
    expect(told(queued, begun)).toEqual([
      ['status', { status: 'processing', attempt: 1 }],
      ['progress', { progress: 0.25 }],
    ])
  })

  test('begins anew with another attempt, however far the one before was', () => {
    expect(told(begun, { ...begun, attempt: 2, progress: 0 })).toEqual([
      ['status', { status: 'processing', attempt: 2 }],
      ['progress', { progress: 0 }],
    ])
  })

  test('is the same after each event of it, by the id of that event alone', () => {
    for (const [before, now] of [
      [undefined, queued],
      [undefined, begun],
      [queued, begun],
    ] as const) {
      const { news, told } = newsSince(before, now)
      expect(told).toEqual(now)
      for (const [index, { id }] of news.entries()) {
        const known = parseEventId(id)
        expect(known).toBeDefined()
        expect(newsSince(known, now).news).toEqual(news.slice(index + 1))
      }
    }
  })
})

describe('an event id', () => {
  test('is read as it was written', () => {
    for (const state of [queued, begun, { ...begun, progress: 0 }, { ...queued, position: null }]) {
      expect(parseEventId(toEventId(state))).toEqual(state)
    }
    for (const status of ['completed', 'failed', 'cancelled'] as const) {
      const over = { status, attempt: 0, progress: null, position: null }
      expect([toEventId(over), parseEventId(status)]).toEqual([status, over])
    }
  })

  test('that is none of ours says nothing', () => {
    const bad = ['', 'queued', 'processing', 'queued.0.-', 'queued.0.-.-.-', 'queued.-1.-.-', 'processing.1.99999.-']
    for (const id of [null, ...bad, 'Completed', 'completed\n', 'paused.1.-.-', '42', '💥', 'x'.repeat(100_000)]) {
      expect([id, parseEventId(id)]).toEqual([id, undefined])
    }
  })
})
