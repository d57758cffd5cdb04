import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { RestrictionService } from './service.ts'

const tags = ['security']

type Dependencies = { restrictions: RestrictionService; guard: Guard; addressOf: (request: Request) => string }

export const restrictionRoutes = ({ restrictions, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/security' })
    .use(guard)
    .get('/mode', ({ context }) => restrictions.getMode(context), {
      operator: true,
      ...contract(
        {},
        { 200: model.mode },
        { summary: 'The mode of the service', tags, errors: ['access.admins_only'] },
      ),
    })
    .put(
      '/mode',
      ({ context, caller, body, request }) => restrictions.setMode(context, caller, body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { body: model.newMode },
          { 200: model.mode },
          {
            summary:
              'Set the mode; in force on every instance when this responds. no-register: no account is registered. read-only: reads, checks, sign-ins and all that takes access away go on. lockdown: only operators sign in, and checks deny',
            tags,
            errors: ['access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .get('/blocks', ({ context, query }) => restrictions.listBlocks(context, { ...toPlace(query), kind: query.kind }), {
      operator: true,
      ...contract(
        { query: model.blockQuery },
        { 200: model.blockPage },
        { summary: 'List blocks, newest first', tags, errors: ['access.admins_only'] },
      ),
    })
    .post(
      '/blocks',
      async ({ context, caller, body, request, status }) =>
        status(201, await restrictions.addBlock(context, caller, body, addressOf(request))),
      {
        recently: 'operator',
        ...contract(
          { body: model.newBlock },
          { 201: model.block },
          {
            summary:
              'Block an address, a network, a user or a service key for some time; in force on every instance when this responds',
            tags,
            unlocated: true,
            errors: [
              'block.exists',
              'block.own_address',
              'block.own_account',
              'block.too_many',
              'user.not_found',
              'service_key.not_found',
              'access.admins_only',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
    .delete(
      '/blocks/:block_id',
      async ({ context, caller, params, request, status }) => {
        await restrictions.removeBlock(context, caller, params.block_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.blockParams },
          { 204: noContent },
          {
            summary: 'Remove a block',
            tags,
            errors: ['block.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
