import type { Changes } from '../access/invalidation/committed-change.ts'
import { audit } from '../audit/audit.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import { sha256 } from '../platform/secrets.ts'
import type { SessionTokens } from './session-tokens.ts'
import type { IdentityStore } from './store.ts'

type Dependencies = {
  store: IdentityStore
  changes: Changes
  tokens: Pick<SessionTokens, 'decodeRefreshToken'>
  clock: Clock
  record: RecordSecurityEvent
}

/**
 * Ends the session that a browser had before it signed in again, by the refresh token that it still has. Does nothing where that
 * is unknown or its session has ended.
 */
export const createReplacement =
  ({ store, changes, tokens, clock, record }: Dependencies) =>
  async (context: RequestContext, refreshToken: string, address: string): Promise<void> => {
    const tokenHash = sha256(tokens.decodeRefreshToken(refreshToken))
    const ended = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const session = await store.lockRefreshToken(tx, tokenHash)
      if (session === undefined || session.ended_at !== null) return undefined
      audit.record(tx, {
        action: 'session.replaced',
        actor: 'anonymous',
        target: { type: 'session', id: session.id },
        userId: session.user_id,
        context,
      })
      await store.endSession(tx, session.user_id, session.id, 'replaced', new Date(clock.now()))
      return session
    })
    if (ended !== undefined)
      record(context, 'session.replaced', { address, user_id: ended.user_id, session_id: ended.id })
  }
