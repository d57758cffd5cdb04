import { afterEach, describe, expect, test } from 'bun:test'
import { compareReports } from './compare.ts'
import type { PlannedRequest } from './load/plan.ts'
import { measure, type Requests, sendLoad } from './load/send.ts'
import { type Report, toJson } from './report.ts'

let server: Bun.Server<undefined> | undefined
afterEach(() => server?.stop(true))

const serve = (answer: (request: Request) => Response | Promise<Response>): string => {
  server = Bun.serve({ hostname: '127.0.0.1', port: 0, fetch: answer })
  return server.url.origin
}

const plan = (requests: readonly PlannedRequest[], rest: Partial<Requests> = {}): Requests => ({
  ...{ kinds: ['check', 'change'], tokens: ['first', 'second'], requests },
  ...{ lanes: [requests.map((_, index) => index)], phases: [{ connections: 2, seconds: 0.3 }], warmUpSeconds: 0.1 },
  ...rest,
})

const check: PlannedRequest = { kind: 0, method: 'POST', path: '/check', token: 0, body: '{}', judgedBy: 0 }
const change: PlannedRequest = {
  kind: 1,
  method: 'PATCH',
  path: '/change',
  body: '{"shut":true}',
  toggles: { slot: 0, openingBody: '{"shut":false}' },
}

/** Answers checks by what changes have said; `lag` is how many changes it is behind. */
const serveChecks = (lag: number) => {
  const history = [false]
  return serve(async (request) => {
    const body = (await request.json()) as { shut?: boolean }
    if (body.shut !== undefined) history.push(body.shut)
    const shut = history[Math.max(0, history.length - 1 - lag)]
    return Response.json(body.shut === undefined ? { allowed: !shut, reason: 'x' } : {})
  })
}

describe('the load generator', () => {
  test('holds each check against the changes that were answered before it was sent', async () => {
    const requests = [change, check, check, check]
    const right = await measure(serveChecks(0), plan(requests))
    expect(right.errors).toEqual({})
    expect(right.verdicts?.judged).toBeGreaterThan(0)
    expect(right.verdicts?.staleAllows).toBe(0)
    server?.stop(true)
    const late = await measure(serveChecks(1), plan(requests))
    expect(late.verdicts?.staleAllows).toBeGreaterThan(0)
  })

  test('counts every answer with another status than expected as an error', async () => {
    let asked = 0
    const url = serve(() => {
      asked += 1
      return asked % 2 === 0 ? new Response('', { status: 503 }) : Response.json({})
    })
    const { errors, requests } = await measure(url, plan([check]))
    expect(Object.keys(errors)).toEqual(['check: 503'])
    expect(Math.abs((errors['check: 503'] ?? 0) - requests / 2)).toBeLessThanOrEqual(2)
  })

  test('counts latency at a fixed rate from when a request was due, not from when it was sent', async () => {
    const url = serve(async () => {
      await Bun.sleep(50)
      return Response.json({})
    })
    // Eighteen are due while one connection can have six answered.
    const { p99Ms, requests } = await measure(
      url,
      plan([check], { phases: [{ connections: 1, seconds: 0.3 }], perSecond: 60 }),
    )
    expect(requests).toBeGreaterThan(6)
    expect(p99Ms).toBeGreaterThan(150)
  })

  test('sends each person’s requests with the token of that person', async () => {
    const seen = new Map<string, Set<string>>()
    const url = serve(async (request) => {
      const { n } = (await request.json()) as { n: string }
      seen.set(n, (seen.get(n) ?? new Set()).add(request.headers.get('authorization') ?? ''))
      return Response.json({})
    })
    const of = (token: number) => ({ ...check, token, body: JSON.stringify({ n: String(token) }) })
    await measure(url, plan([of(0), of(1)]))
    expect([...seen].toSorted()).toEqual([
      ['0', new Set(['Bearer first'])],
      ['1', new Set(['Bearer second'])],
    ])
  })

  test('names a server that is gone as an error', async () => {
    const url = serve(() => Response.json({}))
    setTimeout(() => server?.stop(true), 400)
    const { errors } = await sendLoad({ url, connections: 2, seconds: 1 })
    expect(Object.keys(errors).length).toBeGreaterThan(0)
  })
})

test('a comparison marks the figures whose ranges do not touch', () => {
  const reportOf = (values: readonly number[]): Report => {
    const findings = [{ what: 'throughput', unit: 'ratio', values } as const]
    const result = toJson({ scenario: 'check', about: 'checks', sides: [], findings })
    return { results: [{ ...result, seconds: 3, machine: 'm', measuredAt: '2026-01-01T00:00:00.000Z' }] }
  }
  expect(compareReports(reportOf([0.4, 0.5]), reportOf([0.6, 0.7]))).toContain(
    '* throughput: 0.45 (0.40 to 0.50) -> 0.65',
  )
  expect(compareReports(reportOf([0.4, 0.65]), reportOf([0.6, 0.7]))).toContain('  throughput')
  expect(compareReports(reportOf([0.4, 0.65]), reportOf([0.6, 0.7]))).not.toContain('*')
})
