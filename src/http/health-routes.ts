import { Elysia } from 'elysia'
import * as identity from '../identity/model.ts'
import { createDeadlines } from '../kit/deadline.ts'
import type { Services } from '../services.ts'
import { contract } from './contract.ts'
import { closed, t } from './schema-types.ts'

const tags = ['plain']

const alive = closed({ status: t.Literal('alive') })
const readiness = closed({
  status: t.Union([t.Literal('ready'), t.Literal('not_ready')]),
  reasons: t.Array(t.String()),
})

const probeMs = 1_000

export const healthRoutes = ({ database, keys, lifecycle, clock }: Services) => {
  const startDeadline = createDeadlines(clock)
  const reasonsNotReady = async (): Promise<string[]> => {
    if (lifecycle.stopping) return ['server.stopping']
    try {
      await database.ping(startDeadline(probeMs))
      return []
    } catch {
      return ['database.unavailable']
    }
  }
  return new Elysia()
    .get('/health', () => ({ status: 'alive' as const }), {
      ...contract(
        {},
        { 200: alive },
        { summary: 'Liveness: the process answers; checks nothing else', tags, open: true },
      ),
    })
    .get(
      '/ready',
      async ({ status }) => {
        const reasons = await reasonsNotReady()
        return reasons.length === 0
          ? status(200, { status: 'ready' as const, reasons })
          : status(503, { status: 'not_ready' as const, reasons })
      },
      {
        ...contract(
          {},
          { 200: readiness, 503: readiness },
          { summary: 'Readiness: whether to send requests here, and if not, why', tags, open: true },
        ),
      },
    )
    .get(
      '/.well-known/jwks.json',
      ({ set }) => {
        set.headers['cache-control'] = 'public, max-age=300'
        return keys.jwks() as { keys: identity.PublicKey[] }
      },
      {
        ...contract(
          {},
          { 200: identity.jwks },
          { summary: 'The public keys that verify access tokens (RFC 7517)', tags, open: true },
        ),
      },
    )
}
