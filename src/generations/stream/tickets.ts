import { Buffer } from 'node:buffer'
import type { Ticket, Tickets } from '../../access/guard/tickets.ts'
import type { StreamPermission } from '../../access/permission-recheck.ts'
import { Fault } from '../../fault.ts'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { idFromBytes, idLength, idToBytes, newId } from '../../kit/id.ts'
import type { Secrets } from '../../platform/secrets.ts'
import type { TicketStore } from './ticket-store.ts'

export const ticketSeconds = 60
/** Rows of used tickets outlive them by this, for clocks that differ. */
const keptMs = 600_000

const version = 1
/** Of a signature, which names the secret that made it. */
const signatureLength = 36
const timeLength = 6
/** Offset of each field. Every field has a fixed length, so the signed bytes parse in one way only. */
const at = {
  version: 0,
  id: 1,
  generation: 1 + idLength,
  session: 1 + 2 * idLength,
  user: 1 + 3 * idLength,
  expiry: 1 + 4 * idLength,
  tokenExpiry: 1 + 4 * idLength + timeLength,
}
const fieldsLength = at.tokenExpiry + timeLength

const refused = () => new Fault('generation.stream_ticket_refused')

/**
 * Tickets that open the stream of a generation without an access token, for `EventSource`, which can send no header.
 *
 * Guarantee: a ticket opens one stream, of the generation that it was made for, within a minute; of any number of concurrent uses
 * one succeeds. The stream lasts as long as the access token would have let it, and ends with the session and with the permission.
 * A ticket with a wrong signature is refused before any read. All refusals are identical.
 * Cost: nothing is stored when a ticket is made; its use is one statement.
 */
export const createStreamTickets = ({
  secrets,
  store,
  clock,
}: {
  secrets: Pick<Secrets, 'sign' | 'isSigned'>
  store: TicketStore
  clock: Clock
}) => {
  const read: Tickets['read'] = (text, ref) => {
    const decoded = text.length <= 256 ? decodeBase64url(text) : undefined
    if (decoded?.length !== fieldsLength + signatureLength || decoded[at.version] !== version) throw refused()
    const bytes = Buffer.from(decoded)
    const fields = bytes.subarray(0, fieldsLength)
    if (!secrets.isSigned('stream-ticket', fields, bytes.subarray(fieldsLength))) throw refused()
    const idAt = (offset: number) => idFromBytes(fields.subarray(offset, offset + idLength))
    const expiresAtMs = fields.readUIntBE(at.expiry, timeLength)
    if (expiresAtMs <= clock.now() || ref.type !== 'generation' || idAt(at.generation) !== ref.id) throw refused()
    return {
      id: idAt(at.id),
      expiresAtMs,
      claims: {
        userId: idAt(at.user),
        sessionId: idAt(at.session),
        expiresAtMs: fields.readUIntBE(at.tokenExpiry, timeLength),
      },
    }
  }

  return {
    refused,
    read,

    use: async ({ id, expiresAtMs }: Ticket, deadline): Promise<void> => {
      if (!(await store.use(deadline, id, new Date(expiresAtMs)))) throw refused()
    },

    /** A ticket for the stream that the permission allows. It ends with the access token at the latest. */
    issue: ({ userId, sessionId, expiresAtMs: tokenExpiresAtMs, ref }: StreamPermission) => {
      const expiresAtMs = Math.min(clock.now() + ticketSeconds * 1_000, tokenExpiresAtMs)
      const fields = Buffer.alloc(fieldsLength)
      fields.writeUInt8(version, at.version)
      fields.set(idToBytes(newId()), at.id)
      fields.set(idToBytes(ref.id), at.generation)
      fields.set(idToBytes(sessionId), at.session)
      fields.set(idToBytes(userId), at.user)
      fields.writeUIntBE(expiresAtMs, at.expiry, timeLength)
      fields.writeUIntBE(tokenExpiresAtMs, at.tokenExpiry, timeLength)
      const ticket = encodeBase64url(Buffer.concat([fields, secrets.sign('stream-ticket', fields)]))
      return {
        ticket,
        target: `/api/v1/generations/${ref.id}/stream?ticket=${ticket}`,
        expires_at: new Date(expiresAtMs).toISOString(),
      }
    },

    purge: (): Promise<number> => store.purge(new Date(clock.now() - keptMs)),
  } satisfies Tickets & Record<string, unknown>
}

export type StreamTickets = ReturnType<typeof createStreamTickets>
