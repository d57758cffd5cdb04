import type { Changes } from '../access/invalidation/committed-change.ts'
import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { allInOrder } from '../kit/async.ts'
import { storedSpellings } from '../kit/email.ts'
import type { Limits } from '../limits/limits.ts'
import type { SecondFactorRequired } from './factors/model.ts'
import type { SecondStep } from './factors/second-step.ts'
import type { SignInResponse } from './model.ts'
import type { Passwords } from './passwords.ts'
import type { Device } from './session-opening.ts'
import type { Sessions } from './sessions.ts'
import type { SignInProtection } from './sign-in-protection.ts'
import type { IdentityStore, UserRow } from './store.ts'

type Dependencies = {
  store: IdentityStore
  changes: Changes
  passwords: Passwords
  sessions: Pick<Sessions, 'openAnother'>
  protection: SignInProtection
  secondStep: Pick<SecondStep, 'begin'>
  record: RecordSecurityEvent
  limits: Pick<Limits, 'authenticationTo'>
  requireVerifiedEmail: boolean
}

/**
 * The hash is not the one that was verified, the account is not active any more, or it has got or lost its second factor. Rolls the
 * transaction back.
 */
class AccountChanged extends Error {
  override readonly name = 'AccountChanged'
}

/**
 * Signing in with an e-mail address and a password.
 *
 * Guarantee: an acknowledged sign-in is committed. An unknown address takes as long as a wrong password and gets the same bytes,
 * so it reveals no account. Throws `identity.sign_in_paused`, for the right password too. For an account with a second factor it
 * opens no session: see `createSecondStep`.
 */
export const createSignIn =
  ({
    store,
    changes,
    passwords,
    sessions,
    protection,
    secondStep,
    record,
    limits,
    requireVerifiedEmail,
  }: Dependencies) =>
  async (
    context: RequestContext,
    input: { email: string; password: string; device_token?: string },
    device: Device,
  ): Promise<SignInResponse | SecondFactorRequired> => {
    const { deadline } = context
    passwords.refuseIfBusy(device.address)
    const presented = { email: input.email, deviceToken: input.device_token }
    const { user: found, attempt, knownToken } = await protection.admit(deadline, presented, device)
    const { address } = device
    const counted = await limits.authenticationTo(context, {
      account: attempt.turnKey,
      address: context.limitedAs,
      isKnown: attempt.source.kind !== 'unknown',
    })
    const requester = { address, account: attempt.turnKey }
    const verifyIn = (user: UserRow | undefined, verify: (isRight: () => Promise<boolean>) => Promise<boolean>) =>
      passwords.inTurn(requester, deadline, async (hashing) => {
        const hash = user?.password_hash ?? undefined
        const matches = await verify(() => hashing.verify(input.password, hash))
        if (!matches || user === undefined || hash === undefined) return undefined
        const renews = user.status === 'active' && passwords.isOutdated(hash)
        return { user, hash, renewed: renews ? await hashing.hash(input.password) : undefined }
      })
    let verified = await verifyIn(found, (isRight) => protection.verify(context, attempt, isRight))
    // Two tries: a concurrent sign-in may have renewed the hash after this one read it.
    for (let tries = 1; verified !== undefined; tries += 1) {
      const { user, hash, renewed } = verified
      if (user.status !== 'active') {
        record(context, 'sign_in.refused', { address, user_id: user.id })
        throw new Fault('identity.account_suspended')
      }
      if (requireVerifiedEmail && user.email_verified_at === null) {
        record(context, 'sign_in.not_verified', { address, user_id: user.id })
        throw new Fault('identity.email_not_verified')
      }
      const opened = await changes
        .commitAndInvalidate(
          deadline,
          async (tx) => {
            // Sent together, in one round trip.
            const [isUnchanged, another] = await allInOrder([
              () =>
                renewed === undefined
                  ? store.lockAccountForNoKeyUpdate(tx, user.id, hash, user.second_factor)
                  : store.replacePasswordHash(tx, user.id, hash, renewed, user.second_factor),
              () => (user.second_factor ? undefined : sessions.openAnother(tx, user, device, knownToken)),
              () => (user.second_factor ? protection.clear(tx, attempt) : protection.succeed(tx, attempt)),
            ])
            if (!isUnchanged) throw new AccountChanged()
            audit.record(
              tx,
              another === undefined
                ? {
                    action: 'sign_in.second_factor_asked',
                    actor: 'anonymous',
                    target: { type: 'user', id: user.id },
                    after: { source: attempt.source.kind },
                    context,
                  }
                : {
                    action: 'sign_in.succeeded',
                    actor: { userId: user.id, sessionId: another.sessionId },
                    target: { type: 'session', id: another.sessionId },
                    after: { source: attempt.source.kind, replaced_session_id: another.replacedSessionId },
                    context,
                  },
            )
            return { another }
          },
          { grantsOnly: true },
        )
        .catch((error) => {
          if (error instanceof AccountChanged) return undefined
          throw error
        })
      if (opened !== undefined && opened.another === undefined) {
        record(context, 'sign_in.second_factor_asked', { address, user_id: user.id, source: attempt.source.kind })
        const { source } = attempt
        const current = { ...user, password_hash: renewed ?? hash }
        return await secondStep.begin(deadline, current, { source, knownToken })
      }
      if (opened?.another !== undefined) {
        const { sessionId: session_id, replacedSessionId, respond } = opened.another
        const known = { address, user_id: user.id, source: attempt.source.kind }
        record(context, 'sign_in.succeeded', { ...known, session_id })
        if (replacedSessionId !== undefined)
          record(context, 'session.replaced', { address, user_id: user.id, session_id: replacedSessionId })
        return respond()
      }
      if (tries === 2) break
      const latest = await store.findUserByEmail(deadline, storedSpellings(input.email))
      verified = await verifyIn(latest, (isRight) => isRight())
    }
    counted.failed()
    throw new Fault('identity.credentials_wrong')
  }
