import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import { allInOrder } from '../../kit/async.ts'
import { decodeBase64url } from '../../kit/base64url.ts'
import type { Limits } from '../../limits/limits.ts'
import { type AuthenticationResponseJSON, challengeIn, type Webauthn } from '../../platform/webauthn.ts'
import type { SignInResponse } from '../model.ts'
import type { Device } from '../session-opening.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInProtection } from '../sign-in-protection.ts'
import type { IdentityStore } from '../store.ts'
import { type Challenges, challengeTtlMs } from './challenges.ts'
import { bindingOf, type Proofs } from './proofs.ts'
import type { FactorStore } from './store.ts'

type Dependencies = {
  store: Pick<FactorStore, 'findByCredential'>
  accounts: Pick<IdentityStore, 'lockActiveAccount'>
  webauthn: Webauthn | undefined
  challenges: Challenges
  proofs: Proofs
  changes: Changes
  sessions: Pick<Sessions, 'openAnother'>
  protection: Pick<SignInProtection, 'recognizeSource' | 'noticeNewDevice'>
  limits: Pick<Limits, 'authenticationTo'>
  record: RecordSecurityEvent
  requireVerifiedEmail: boolean
}

/**
 * Signing in with a passkey alone: its device, and the PIN or the fingerprint that it has verified, are two factors.
 *
 * Guarantee: a challenge is good for one session, for five minutes. Pauses that wrong passwords cause do not hold a passkey up. An
 * unknown passkey, and every response that is not valid, gets one answer.
 */
export const createPasskeySignIn = (dependencies: Dependencies) => {
  const {
    store,
    accounts,
    webauthn,
    challenges,
    proofs,
    changes,
    sessions,
    protection,
    limits,
    record,
    requireVerifiedEmail,
  } = dependencies
  const requireWebauthn = (): Webauthn => {
    if (webauthn === undefined) throw new Fault('passkey.not_configured')
    return webauthn
  }
  return {
    options: async () => ({
      options: await requireWebauthn().requestOptions(
        challenges.issue('passkey-sign-in', {}),
        undefined,
        challengeTtlMs,
      ),
    }),

    signIn: async (
      context: RequestContext,
      { passkey: response, device_token }: { passkey: AuthenticationResponseJSON; device_token?: string | undefined },
      device: Device,
    ): Promise<SignInResponse> => {
      requireWebauthn()
      const { deadline } = context
      const { address } = device
      const account = `passkey ${bindingOf(response.id)}`
      const counted = await limits.authenticationTo(context, { account, address: context.limitedAs })
      const refused = () => {
        counted.failed()
        record(context, 'sign_in.passkey_refused', { address, user_id: null })
        return new Fault('passkey.refused')
      }
      const challenge = challengeIn(response.response.clientDataJSON)
      const credentialId = decodeBase64url(response.id)
      if (challenge === undefined || challenges.open('passkey-sign-in', challenge) === undefined) throw refused()
      const found = credentialId && (await store.findByCredential(deadline, credentialId))
      const proof = found && (await proofs.checkSignature(found.passkey, response, challenge))
      if (found === undefined || proof === undefined) throw refused()
      const { user } = found
      if (user.status !== 'active') {
        record(context, 'sign_in.refused', { address, user_id: user.id })
        throw new Fault('identity.account_suspended')
      }
      if (requireVerifiedEmail && user.email_verified_at === null) {
        record(context, 'sign_in.not_verified', { address, user_id: user.id })
        throw new Fault('identity.email_not_verified')
      }
      const { source, knownToken } = await protection.recognizeSource(deadline, user, device_token, device)
      const opened = await changes.commitAndInvalidate(
        deadline,
        async (tx) => {
          if (!(await accounts.lockActiveAccount(tx, user.id)) || !(await proof.accept(tx))) throw refused()
          const [another] = await allInOrder([
            () => sessions.openAnother(tx, user, device, knownToken),
            () => protection.noticeNewDevice(tx, { source, userId: user.id, device }),
          ])
          audit.record(tx, {
            action: 'sign_in.succeeded',
            actor: { userId: user.id, sessionId: another.sessionId },
            target: { type: 'session', id: another.sessionId },
            after: { source: source.kind, second_factor: 'passkey', replaced_session_id: another.replacedSessionId },
            context,
          })
          return another
        },
        { grantsOnly: true },
      )
      const { sessionId: session_id, replacedSessionId } = opened
      record(context, 'sign_in.succeeded', {
        address,
        user_id: user.id,
        source: source.kind,
        session_id,
        second_factor: 'passkey',
      })
      if (replacedSessionId !== undefined)
        record(context, 'session.replaced', { address, user_id: user.id, session_id: replacedSessionId })
      return opened.respond()
    },
  }
}

export type PasskeySignIn = ReturnType<typeof createPasskeySignIn>
