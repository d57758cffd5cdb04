import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Spending } from '../../limits/spending.ts'
import type { Access } from '../access.ts'
import type { StreamPermission } from '../permission-recheck.ts'
import type { Action, ResourceRef } from '../policy/matrix.ts'
import type { Credential } from '../principal.ts'
import type { Authentication } from './authentication.ts'
import type { Ticket, Tickets } from './tickets.ts'

type Wanted = {
  readonly request: Request
  readonly context: RequestContext
  readonly action: Action
  readonly ref: ResourceRef
  /** The credential that the gate has read. */
  readonly entry: { readonly credential: Credential } | undefined
  readonly ticket?: Ticket | undefined
}

export const hasTicket = (query: unknown): boolean => (query as { ticket?: string }).ticket !== undefined

/** That the person must authenticate again says nothing about either, and is no use without the person. */
const isOfAccess = ({ status, code }: Fault): boolean =>
  (status === 401 && code !== 'session.reauthentication_required') || status === 404 || code === 'access.blocked'

/** Admits the caller of a streamed response, by the claims of a token or of a ticket, and says which permission it needs. */
export const createStreamEntry = ({
  access,
  authentication: { authenticateToken, credentialOf, refuseKey },
  tickets,
}: {
  access: Pick<Access, 'require'>
  authentication: Pick<Authentication, 'authenticateToken' | 'credentialOf' | 'refuseKey'>
  tickets: Tickets
}) => {
  const enter = async (spend: Spending, { request, context, entry, action, ref, ticket }: Wanted) => {
    const credential =
      ticket === undefined
        ? await credentialOf(request, context, entry)
        : ({ kind: 'token', claims: ticket.claims } as const)
    if (credential.kind === 'key') return refuseKey(credential, context)
    const caller = await authenticateToken(credential, context, [ref])
    await spend.person(context, caller)
    await access.require(caller, action, ref, context.deadline)
    // Looking at the headers alone opens no stream.
    if (ticket !== undefined && request.method !== 'HEAD') await tickets.use(ticket, context.deadline)
    const { userId, sessionId, expiresAtMs } = credential.claims
    const permission: StreamPermission = { userId, sessionId, expiresAtMs, action, ref }
    return { caller, permission }
  }

  return {
    /** Refuses a ticket that is given twice: two readers may take another one. */
    readTicket: ({ url }: Request, ref: ResourceRef): Ticket => {
      const [text = '', another] = URL.parse(url)?.searchParams.getAll('ticket') ?? []
      if (another !== undefined) throw tickets.refused()
      return tickets.read(text, ref)
    },

    enterStream: async (spend: Spending, wanted: Wanted) => {
      try {
        return await enter(spend, wanted)
      } catch (error) {
        // As for a link: who holds a ticket learns nothing about the person or the resource.
        if (wanted.ticket !== undefined && error instanceof Fault && isOfAccess(error)) throw tickets.refused()
        throw error
      }
    },
  }
}
