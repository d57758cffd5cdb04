import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { toPlace } from '../../http/schema-types.ts'
import * as model from './model.ts'
import type { Alerts } from './service.ts'

export const alertRoutes = ({ alerts, guard }: { alerts: Pick<Alerts, 'list'>; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/performance' })
    .use(guard)
    .get('/alerts', ({ context, query }) => alerts.list(context, toPlace(query), query), {
      operatorOrService: 'performance:read',
      ...contract(
        { query: model.alertQuery },
        { 200: model.alertPage },
        {
          summary: 'Alerts about metrics far above their targets, open and cleared, newest first',
          tags: ['performance'],
          security: ['bearer', 'service_key'],
          errors: ['access.admins_only', 'service_key.scope_missing'],
        },
      ),
    })
