import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { TokenResponse } from '../model.ts'
import type { Device } from '../session-opening.ts'
import type { Sessions } from '../sessions.ts'
import type { IdentityStore } from '../store.ts'
import type { Codes, GivenCode } from './codes.ts'
import type { IdentityProviderStore } from './store.ts'

type Dependencies = {
  store: IdentityProviderStore
  accounts: Pick<IdentityStore, 'endSession'>
  codes: Codes
  changes: Changes
  sessions: Pick<Sessions, 'reopen'>
  clock: Clock
  record: RecordSecurityEvent
}

/**
 * Proves again who uses a session, by an identity that is linked to its account, for people without a password.
 *
 * Guarantee: a new session takes the place of the old one, whose tokens are refused from then on. A code of an identity that is not
 * linked to the account is refused: `identity_provider.code_invalid`. So is an account with a second factor, whose owner
 * authenticates again by a passkey or by signing in anew: `identity.second_factor_missing`.
 */
export const createProviderReauthentication =
  ({ store, accounts, codes, changes, sessions, clock, record }: Dependencies) =>
  async (context: RequestContext, caller: Caller, given: GivenCode, device: Device): Promise<TokenResponse> => {
    const { userId, sessionId } = caller
    const { reopened, providerId } = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const user = await store.lockUser(tx, userId)
      if (user === undefined) throw new Fault('identity.not_signed_in')
      // A provider stands in for the password, not for the second factor.
      if (user.second_factor) throw new Fault('identity.second_factor_missing')
      await requireSignedInForShare(tx, caller)
      const { issuer, subject, providerId } = await codes.use(tx, given, 'reauthenticate', userId)
      const linked = (await store.listOf(tx, userId)).find((row) => row.issuer === issuer && row.subject === subject)
      if (linked === undefined) throw new Fault('identity_provider.code_invalid')
      const at = new Date(clock.now())
      await store.recordUse(tx, linked.id, at)
      if (!(await accounts.endSession(tx, userId, sessionId, 'replaced', at))) throw new Fault('identity.not_signed_in')
      const reopened = await sessions.reopen(tx, user, device, sessionId)
      audit.record(tx, {
        action: 'session.reauthenticated',
        actor: caller,
        target: { type: 'session', id: reopened.sessionId },
        after: { replaced_session_id: sessionId, provider_id: providerId },
        context,
      })
      return { reopened, providerId }
    })
    record(context, 'session.reauthenticated', {
      address: device.address,
      user_id: userId,
      session_id: reopened.sessionId,
      provider_id: providerId,
    })
    return reopened.respond()
  }
