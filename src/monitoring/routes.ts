import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import type { Responder } from '../http/responder.ts'
import * as model from './model.ts'
import * as reports from './report-model.ts'
import type { Monitoring } from './service.ts'
import { type FigureStreams, sendMs } from './streams.ts'

const scope = 'performance:read'
const usual = {
  tags: ['performance'],
  security: ['bearer', 'service_key'] as const,
  errors: ['access.admins_only', 'service_key.scope_missing'] as const,
}

const events = `Every ${sendMs / 1_000} s, both with the same id:
- \`report\`: as GET /api/v1/performance/report
- \`health\`: as GET /api/v1/performance/health
The stream ends when the access token expires, when the caller is no operator any more or the service key may not read figures any
more, and when the server stops.`

type Dependencies = {
  readonly monitoring: Monitoring
  readonly figureStreams: Pick<FigureStreams, 'open'>
  readonly guard: Guard
  readonly responder: Pick<Responder, 'raw'>
}

export const monitoringRoutes = ({ monitoring, figureStreams, guard, responder }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/performance' })
    .use(guard)
    .get('/metrics', () => monitoring.metrics(), {
      operatorOrService: scope,
      ...contract(
        {},
        { 200: model.metrics },
        {
          summary:
            'Use of all instances, and counters of admission, the caches, the bus, audit and defence of this instance since its start',
          ...usual,
        },
      ),
    })
    .get('/report', () => monitoring.report(), {
      operatorOrService: scope,
      ...contract(
        {},
        { 200: reports.report },
        {
          summary: 'Percentiles, grades and trends of each metric over the last minute, five minutes and hour',
          ...usual,
        },
      ),
    })
    .get('/health', () => monitoring.health(), {
      operatorOrService: scope,
      ...contract(
        {},
        { 200: reports.health },
        { summary: 'The components of this instance: state, since when, and why', ...usual },
      ),
    })
    .get('/prd-compliance', ({ query }) => monitoring.compliance(query.window ?? '1h'), {
      operatorOrService: scope,
      ...contract(
        { query: reports.complianceQuery },
        { 200: reports.compliance },
        { summary: 'Whether each target is met, with the figures and the number of samples', ...usual },
      ),
    })
    .get(
      '/stream',
      ({ context, recheck, request }) => {
        const outgoing = { requestId: context.requestId, origin: request.headers.get('origin'), status: 200 }
        const headers = { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' }
        const body = request.method === 'HEAD' ? null : figureStreams.open(recheck)
        return responder.raw(body, { ...outgoing, headers })
      },
      {
        operatorOrService: scope,
        ...contract(
          {},
          {},
          {
            summary: 'Stream the figures as server-sent events',
            ...usual,
            events,
            endless: true,
            errors: [...usual.errors, 'performance.streams_full'],
          },
        ),
      },
    )
