import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract, toIdempotencyKey } from '../http/contract.ts'
import { toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { Credits } from './service.ts'

const tags = ['credits']

export const creditRoutes = ({ credits, guard }: { credits: Credits; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/credits' })
    .use(guard)
    .get('/balance', ({ context, caller }) => credits.getBalance(context, caller), {
      signedIn: true,
      ...contract({}, { 200: model.balance }, { summary: 'Balance of the caller', tags }),
    })
    .get('/ledger', ({ context, caller, query }) => credits.listLedger(context, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: model.page },
        { 200: model.entryPage },
        { summary: 'Ledger entries of the caller, newest first', tags },
      ),
    })
    .post(
      '/grants',
      async ({ context, caller, body, request, set, status }) => {
        const { body: grant, replayed } = await credits.grant(context, caller, body, toIdempotencyKey(request))
        if (replayed) set.headers['idempotent-replayed'] = 'true'
        return status(201, grant)
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.newGrant },
          { 201: model.grant },
          {
            summary: 'Grant credits to an account; for operators',
            tags,
            idempotent: true,
            unlocated: true,
            errors: ['access.admins_only', 'session.reauthentication_required', 'user.not_found'],
          },
        ),
      },
    )
