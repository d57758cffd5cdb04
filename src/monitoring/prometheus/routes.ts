import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import type { Responder } from '../../http/responder.ts'
import type { Monitoring } from '../service.ts'
import { expositionType } from './exposition.ts'

type Dependencies = {
  readonly monitoring: Pick<Monitoring, 'exposition'>
  readonly guard: Guard
  readonly responder: Pick<Responder, 'raw'>
}

export const prometheusRoutes = ({ monitoring, guard, responder }: Dependencies) =>
  new Elysia().use(guard).get(
    '/metrics',
    async ({ context, request }) => {
      const outgoing = { requestId: context.requestId, origin: request.headers.get('origin'), status: 200 }
      const text = await monitoring.exposition()
      return responder.raw(text, { ...outgoing, headers: { 'content-type': expositionType } })
    },
    {
      operatorOrService: 'performance:read',
      ...contract(
        {},
        {},
        {
          summary: 'Figures of all processes of this supervisor, for Prometheus',
          tags: ['plain'],
          security: ['bearer', 'service_key'],
          errors: ['access.admins_only', 'service_key.scope_missing'],
          file: expositionType,
        },
      ),
    },
  )
