import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import * as model from './model.ts'
import type { Monitoring } from './service.ts'

const tags = ['performance']

export const monitoringRoutes = ({ monitoring, guard }: { monitoring: Monitoring; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/performance' }).use(guard).get('/metrics', () => monitoring.metrics(), {
    operatorOrService: 'performance:read',
    ...contract(
      {},
      { 200: model.metrics },
      {
        summary: 'Counters of admission, the caches and the bus of this instance since its start',
        tags,
        security: ['bearer', 'service_key'],
        errors: ['access.admins_only', 'service_key.scope_missing'],
      },
    ),
  })
