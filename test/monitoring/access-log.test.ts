import { describe, expect, test } from 'bun:test'
import type { RequestContext } from '../../src/http/request-context.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createAccessLog } from '../../src/monitoring/access-log.ts'

type Line = { status: number; omitted?: number; principal: string; route: string | null }

const createWriter = (every: number) => {
  const clock = manualClock()
  const lines: Line[] = []
  const write = createAccessLog({ every, log: { info: (fields) => lines.push(fields as Line) }, clock })
  const request = new Request('http://velro.example/api/v1/projects/7?signature=secret', { method: 'POST' })
  const context = { route: '/api/v1/projects/:project_id', requestId: 'r1', principal: undefined } as RequestContext
  return {
    clock,
    lines,
    isOn: write !== undefined,
    answer: (status: number, times = 1, given: Partial<RequestContext> = {}) => {
      for (let n = 0; n < times; n += 1) write?.(request, { ...context, ...given }, status, 1.23456)
    },
  }
}

describe('the access log', () => {
  test('has the route, status, duration, kind of principal and request id, and no path or query', () => {
    const { answer, lines } = createWriter(1)
    answer(201)
    expect(lines as unknown[]).toEqual([
      {
        method: 'POST',
        route: '/api/v1/projects/:project_id',
        status: 201,
        duration_ms: 1.235,
        principal: 'anonymous',
        request_id: 'r1',
      },
    ])
  })

  test('names the kind of the principal, never who it is, and no route where none was found', () => {
    const { answer, lines } = createWriter(1)
    answer(200, 1, { principal: { userId: 'u', sessionId: 's' } })
    answer(200, 1, { principal: { keyId: 'k', limitPerSecond: null } })
    answer(404, 1, { route: undefined })
    expect(lines.map(({ principal, route }) => [principal, route])).toEqual([
      ['person', '/api/v1/projects/:project_id'],
      ['service', '/api/v1/projects/:project_id'],
      ['anonymous', null],
    ])
  })

  test('has one of the given number of successes, and every 5xx', () => {
    const { answer, lines } = createWriter(100)
    answer(200, 1_000)
    answer(503, 37)
    expect(lines.filter(({ status }) => status === 200)).toHaveLength(10)
    expect(lines.filter(({ status }) => status === 503)).toHaveLength(37)
  })

  test('has a share of refusals, at most 10 lines a second, and counts the rest', () => {
    const { answer, clock, lines } = createWriter(100)
    answer(404, 50)
    expect(lines.map(({ omitted }) => omitted)).toEqual([0, 9, 9, 9, 9])
    answer(404, 950)
    expect(lines).toHaveLength(10)
    clock.advance(1_000)
    answer(404, 1)
    expect(lines).toHaveLength(11)
    expect(lines.reduce((sum, { omitted = 0 }) => sum + omitted + 1, 0)).toBe(1_001)
  })

  test('is off with 0', () => {
    const { isOn } = createWriter(0)
    expect(isOn).toBe(false)
  })
})
