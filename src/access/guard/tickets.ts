import type { Fault } from '../../fault.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { TokenClaims } from '../principal.ts'

/** What a ticket stands for: the access token of the person who asked for it, for one request about one resource. */
export type Ticket = { readonly id: string; readonly expiresAtMs: number; readonly claims: TokenClaims }

/** Tickets stand in the query of a request, for clients that can send no header. */
export type Tickets = {
  /** Throws `refused()` for a ticket that is forged, has expired, or was made for another resource. */
  read(ticket: string, ref: ResourceRef): Ticket
  /** Throws `refused()` for one that was used before. */
  use(ticket: Ticket, deadline: Deadline): Promise<void>
  refused(): Fault
}
