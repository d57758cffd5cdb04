import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { canonicalEmail, storedSpellings } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountLifecycle } from '../accounts.ts'
import { defaultDisplayName } from '../display-name.ts'
import type { SecondFactorRequired } from '../factors/model.ts'
import type { SecondStep } from '../factors/second-step.ts'
import type { SignInResponse } from '../model.ts'
import type { Device, Opened } from '../session-opening.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInProtection } from '../sign-in-protection.ts'
import type { IdentityStore, UserRow } from '../store.ts'
import type { Codes, GivenCode, StoredIdentity } from './codes.ts'
import type { IdentityProviderStore } from './store.ts'

export type ProviderSignInDependencies = {
  store: IdentityProviderStore
  accounts: Pick<IdentityStore, 'requireRegistrations' | 'insertUser' | 'endSession'>
  codes: Codes
  changes: Changes
  sessions: Pick<Sessions, 'open' | 'openAnother' | 'reopen'>
  protection: Pick<SignInProtection, 'recognize' | 'recognizeSource'>
  secondStep: Pick<SecondStep, 'begin'>
  lifecycle: Pick<AccountLifecycle, 'registered'> & {
    /** Gives an account whose e-mail address is verified the credits that were pending. */
    readonly verified: (tx: TransactionSql, userId: string) => Promise<void>
  }
  clock: Clock
  record: RecordSecurityEvent
}

/** An identity was linked or unlinked, or an account registered, after it was looked for. Rolls the transaction back. */
class Overtaken extends Error {
  override readonly name = 'Overtaken'
}

const isTaken = (error: unknown): boolean =>
  error instanceof Fault && (error.code === 'identity.email_taken' || error.code === 'linked_identity.taken')

/** `opened` is undefined for an account with a second factor, which is asked for next. */
type SignedIn = { readonly user: UserRow; readonly opened: Opened | undefined; readonly registered: boolean }

/**
 * Signing in with an identity that a provider has proven.
 *
 * Guarantee: an identity signs in to the account that it was linked to, also when its address has changed. One that is linked to
 * no account opens a new one, under an address that its provider has verified. It never signs in to an account that has this
 * address already: `identity_provider.account_exists`. The owner of that account links the identity after signing in to it. For an
 * account with a second factor it opens no session: see `createSecondStep`.
 */
export const createProviderSignIn = ({
  store,
  accounts,
  codes,
  changes,
  sessions,
  protection,
  secondStep,
  lifecycle,
  clock,
  record,
}: ProviderSignInDependencies) => {
  const openForLinked = async (
    tx: TransactionSql,
    { user, linkedId }: { user: UserRow; linkedId: string },
    deviceToken: string | undefined,
    device: Device,
  ): Promise<SignedIn> => {
    if (!(await store.recordUse(tx, linkedId, new Date(clock.now())))) throw new Overtaken()
    if (user.status !== 'active') throw new Fault('identity.account_suspended')
    // The account is locked, so it gets no second factor before the session is open.
    if (user.second_factor) return { user, opened: undefined, registered: false }
    const knownToken = await protection.recognize(tx, user, deviceToken, device)
    return { user, opened: await sessions.openAnother(tx, user, device, knownToken), registered: false }
  }

  const register = async (tx: TransactionSql, identity: StoredIdentity, device: Device): Promise<SignedIn> => {
    await accounts.requireRegistrations(tx)
    const email = identity.verifiedEmail === undefined ? undefined : canonicalEmail(identity.verifiedEmail)
    if (email === undefined) throw new Fault('identity_provider.email_unverified')
    if (await store.hasAccount(tx, storedSpellings(identity.verifiedEmail ?? ''))) {
      // It may be the account that another sign-in of this person has opened a moment ago.
      const linked = await store.lockLinkedUser(tx, identity.issuer, identity.subject)
      throw linked === undefined ? new Fault('identity_provider.account_exists') : new Overtaken()
    }
    const at = new Date(clock.now())
    const user = await accounts.insertUser(tx, {
      id: newId(),
      email,
      displayName: identity.displayName ?? defaultDisplayName(email),
      passwordHash: null,
      emailVerifiedAt: at,
    })
    await store.link(tx, {
      id: newId(),
      user_id: user.id,
      provider_id: identity.providerId,
      issuer: identity.issuer,
      subject: identity.subject,
      email,
      created_at: at,
      last_used_at: at,
    })
    const opened = await sessions.open(tx, user, device)
    await lifecycle.registered(tx, { userId: user.id, email, address: device.address })
    await lifecycle.verified(tx, user.id)
    return { user, opened, registered: true }
  }

  const signInOnce = (
    context: RequestContext,
    input: GivenCode & { device_token?: string },
    device: Device,
  ): Promise<SignedIn & { readonly identity: StoredIdentity }> =>
    changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        const identity = await codes.use(tx, input, 'sign_in', undefined)
        const linked = await store.lockLinkedUser(tx, identity.issuer, identity.subject)
        const signedIn =
          linked === undefined
            ? await register(tx, identity, device)
            : await openForLinked(tx, linked, input.device_token, device)
        const { user, opened, registered } = signedIn
        const after = { provider_id: identity.providerId, replaced_session_id: opened?.replacedSessionId }
        if (opened === undefined)
          audit.record(tx, {
            action: 'sign_in.second_factor_asked',
            actor: 'anonymous',
            target: { type: 'user', id: user.id },
            after,
            context,
          })
        else
          audit.record(tx, {
            action: registered ? 'account.registered' : 'sign_in.succeeded',
            actor: { userId: user.id, sessionId: opened.sessionId },
            target: registered ? { type: 'user', id: user.id } : { type: 'session', id: opened.sessionId },
            after,
            context,
          })
        return { ...signedIn, identity }
      },
      { grantsOnly: true },
    )

  const signIn = async (
    context: RequestContext,
    input: GivenCode & { device_token?: string },
    device: Device,
  ): Promise<SignedIn & { readonly identity: StoredIdentity }> => {
    try {
      return await signInOnce(context, input, device)
    } catch (error) {
      // Another sign-in of this person was first. The code was not used, because the transaction was rolled back.
      if (!(error instanceof Overtaken) && !isTaken(error)) throw error
    }
    try {
      return await signInOnce(context, input, device)
    } catch (error) {
      throw error instanceof Overtaken ? new Fault('identity_provider.code_invalid') : error
    }
  }

  return async (
    context: RequestContext,
    input: GivenCode & { device_token?: string },
    device: Device,
  ): Promise<SignInResponse | SecondFactorRequired> => {
    const { user, opened, registered, identity } = await signIn(context, input, device)
    if (opened === undefined) {
      const from = await protection.recognizeSource(context.deadline, user, input.device_token, device)
      const { kind } = from.source
      record(context, 'sign_in.second_factor_asked', { address: device.address, user_id: user.id, source: kind })
      return secondStep.begin(context.deadline, user, from)
    }
    const { sessionId: session_id, replacedSessionId } = opened
    const fields = { address: device.address, user_id: user.id, provider_id: identity.providerId }
    record(context, registered ? 'account.registered' : 'sign_in.succeeded', {
      ...fields,
      session_id,
      ...(!registered && { source: 'identity_provider' }),
    })
    if (replacedSessionId !== undefined)
      record(context, 'session.replaced', { address: device.address, user_id: user.id, session_id: replacedSessionId })
    return opened.respond()
  }
}
