import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import type { Quotas } from '../limits/quotas.ts'
import { quotas as schema } from './model.ts'
import { accountParams } from './users/model.ts'

/** Quotas of the caller, and of any account for operators. */
export const quotaRoutes = ({ quotas, guard }: { quotas: Pick<Quotas, 'list'>; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .get('/auth/me/quotas', ({ context, caller }) => quotas.list(context.deadline, caller.userId), {
      signedIn: true,
      ...contract(
        {},
        { 200: schema },
        { summary: 'Your quotas, and how much of each you use', tags: ['auth'], scope: 'users:read' },
      ),
    })
    .get('/users/:user_id/quotas', ({ context, params }) => quotas.list(context.deadline, params.user_id), {
      operator: true,
      ...contract(
        { params: accountParams },
        { 200: schema },
        {
          summary: 'The quotas of an account, and how much of each it uses',
          tags: ['users'],
          scope: 'users:read',
          errors: ['user.not_found', 'access.admins_only'],
        },
      ),
    })
