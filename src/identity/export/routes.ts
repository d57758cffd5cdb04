import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import type { Responder } from '../../http/responder.ts'
import type { AccountExport } from './account-export.ts'

const type = 'application/zip'

export const exportRoutes = ({
  accountExport,
  guard,
  responder,
  addressOf,
}: {
  accountExport: AccountExport
  guard: Guard
  responder: Pick<Responder, 'raw'>
  addressOf: (request: Request) => string
}) =>
  new Elysia({ prefix: '/api/v1/auth' }).use(guard).post(
    '/me/export',
    ({ context, caller, request }) =>
      responder.raw(accountExport.start(context, caller, addressOf(request)), {
        status: 200,
        requestId: context.requestId,
        origin: request.headers.get('origin'),
        headers: {
          'content-type': type,
          'content-disposition': `attachment; filename="velro-${new Date().toISOString().slice(0, 10)}.zip"`,
        },
      }),
    {
      recently: 'person',
      ...contract(
        {},
        {},
        {
          summary:
            'Download everything that is held about you, and all your media, as one zip archive. It is streamed, and whole only if it ends with its directory',
          tags: ['auth'],
          file: type,
          budget: 'media',
          errors: ['identity.export_under_way', 'session.reauthentication_required'],
        },
      ),
    },
  )
