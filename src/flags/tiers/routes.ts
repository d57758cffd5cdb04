import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import * as model from './model.ts'
import type { TierFlagService } from './service.ts'

const tags = ['security']

export const tierFlagRoutes = ({ tierFlags, guard }: { tierFlags: TierFlagService; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/security/flags' })
    .use(guard)
    .get('', ({ context }) => tierFlags.get(context), {
      operator: true,
      ...contract(
        {},
        { 200: model.flags },
        { summary: 'Which of the three cache tiers and the warm-up are on', tags, errors: ['access.admins_only'] },
      ),
    })
    .put('', ({ context, caller, body }) => tierFlags.set(context, caller, body), {
      recently: 'operator',
      ...contract(
        { body: model.flagChanges },
        { 200: model.flags },
        {
          summary: 'Switch tiers or the warm-up on or off; in effect on every instance when this responds',
          tags,
          errors: ['access.admins_only', 'session.reauthentication_required'],
        },
      ),
    })
