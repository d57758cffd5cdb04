import { describe, expect, test } from 'bun:test'
import { createTraceIds, traceIdOf } from '../../src/kit/trace-id.ts'

const trace = '0af7651916cd43dd8448eb211c80319c'
const parent = 'b7ad6b7169203331'

describe('the trace id of a traceparent header', () => {
  test('is parsed from every version that W3C Trace Context allows', () => {
    expect(traceIdOf(`00-${trace}-${parent}-01`)).toBe(trace)
    expect(traceIdOf(`00-${trace}-${parent}-00`)).toBe(trace)
    expect(traceIdOf(`cc-${trace}-${parent}-01-what-the-future-is-like`)).toBe(trace)
  })

  test('is undefined when the header is malformed', () => {
    for (const header of [
      null,
      '',
      trace,
      `00-${trace}-${parent}`,
      `00-${trace}-${parent}-1`,
      `00-${trace.toUpperCase()}-${parent}-01`,
      `00-${'0'.repeat(32)}-${parent}-01`,
      `00-${trace}-${'0'.repeat(16)}-01`,
      `ff-${trace}-${parent}-01`,
      `00-${trace}-${parent}-01-more`,
      `00-${trace}-${parent}-01x`,
      `cc-${trace}-${parent}-01x`,
      `0-${trace}-${parent}-01`,
      ` 00-${trace}-${parent}-01`,
      `00-${trace.slice(1)}-${parent}-01`,
      `00-${trace}0-${parent}-01`,
      `00-${trace.replace('a', 'g')}-${parent}-01`,
      `00-${trace}-${parent}-01${'-x'.repeat(60)}`,
    ]) {
      expect(traceIdOf(header)).toBeUndefined()
    }
  })
})

describe('generated trace ids', () => {
  test('are valid in a traceparent header', () => {
    const next = createTraceIds()
    for (const id of [next(), next()]) expect(traceIdOf(`00-${id}-${parent}-01`)).toBe(id)
  })

  test('are unique within a process and across processes', () => {
    const makers = Array.from({ length: 10 }, createTraceIds)
    const ids = makers.flatMap((next) => Array.from({ length: 1_000 }, next))
    expect(new Set(ids).size).toBe(10_000)
  })
})
