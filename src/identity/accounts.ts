import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { requireSignedInForShare } from '../access/transactional-access.ts'
import { audit } from '../audit/audit.ts'
import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { allInOrder } from '../kit/async.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import { canonicalEmail, emailRequirement, storedSpellings } from '../kit/email.ts'
import { newId } from '../kit/id.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { Limits } from '../limits/limits.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { AccountHash } from './account-hash.ts'
import { defaultDisplayName } from './display-name.ts'
import type { SignInResponse, TokenResponse, User } from './model.ts'
import type { OwnPassword } from './own-password.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import type { FlowRequests } from './recovery/requests.ts'
import type { Device } from './session-opening.ts'
import type { Sessions } from './sessions.ts'
import type { SignInProtection } from './sign-in-protection.ts'
import type { IdentityStore, UserRow } from './store.ts'
import type { Profiles } from './users/profiles.ts'
import { toUser } from './users/view.ts'

/** What other features do when an account is opened or closed, inside its transaction. */
export type AccountLifecycle = {
  /** Gives a new account its first credits, now or once its e-mail address is verified. */
  registered: (tx: TransactionSql, account: { userId: string; email: string; address: string }) => Promise<void>
  /** Gives an account whose e-mail address is verified the credits that were pending. */
  verified: (tx: TransactionSql, userId: string) => Promise<void>
  /** Remembers that the e-mail address has had its first credits. Call it before the address is erased. */
  closing: (tx: TransactionSql, userId: string) => Promise<void>
  /** Drops credits that are still pending, and what waits to be sent. */
  closed: (tx: TransactionSql, userId: string) => Promise<void>
  /** Cancels a batch of the account's unfinished generations. Returns whether there may be more. */
  cancelGenerations: (tx: TransactionSql, userId: string) => Promise<boolean>
  /** The teams that the user owns and that have another active member. Without `tx`, on the pool of requests. */
  teamsToHandOver: (userId: string, tx?: TransactionSql) => Promise<readonly { id: string; name: string }[]>
  /** Locks the account and its teams, and deletes its invitations. */
  lockTeams: (tx: TransactionSql, userId: string) => Promise<void>
}

type Dependencies = {
  store: IdentityStore
  profiles: Profiles
  changes: Changes
  passwords: Passwords
  passwordRules: PasswordRules
  ownPassword: OwnPassword
  sessions: Sessions
  protection: SignInProtection
  record: RecordSecurityEvent
  lifecycle: AccountLifecycle
  hashOf: AccountHash
  limits: Pick<Limits, 'authenticationTo'>
  requests: Pick<FlowRequests, 'verifyLater' | 'registerLater'>
  /** An account is made apart from the request, and can sign in once its address is verified. */
  requireVerifiedEmail: boolean
  /** Revokes links that would set another password, and sends the owner a mail. */
  onPasswordChanged: (tx: TransactionSql, userId: string) => Promise<void>
}

/**
 * Accounts as their owners use them: registering, signing in, changing. `closing.ts` closes them.
 *
 * Guarantee: an acknowledged registration or sign-in is committed. After a changed password every session that was open is refused
 * from the next request on.
 */
export const createAccounts = ({
  store,
  profiles,
  changes,
  passwords,
  passwordRules,
  ownPassword,
  sessions,
  protection,
  record,
  lifecycle,
  hashOf,
  limits,
  requests,
  requireVerifiedEmail,
  onPasswordChanged,
}: Dependencies) => {
  const requireActiveUser = async (context: RequestContext, userId: string): Promise<UserRow> => {
    const user = await store.findUser(context.deadline, userId)
    if (user === undefined || user.status !== 'active') throw new Fault('identity.not_signed_in')
    return user
  }

  return {
    /** Undefined where addresses must be verified, whether or not the address has an account: its owner gets a mail. */
    register: async (
      context: RequestContext,
      input: { email: string; password: string; display_name?: string },
      device: Device,
    ): Promise<SignInResponse | undefined> => {
      const email = canonicalEmail(input.email)
      if (email === undefined) throw invalidInput('body', '/email', emailRequirement)
      const spellings = storedSpellings(input.email)
      await passwordRules.require(input.password, email, '/password')
      // Apart from sign-ins, so that registering an address again and again holds up no sign-in to its account.
      const account = `registering ${encodeBase64url(hashOf(email))}`
      await limits.authenticationTo(context, { account, address: context.limitedAs })
      await passwordRules.refuseBreached(input.password, context.deadline)
      const passwordHash = await passwords.inTurn(
        { address: device.address, account: email },
        context.deadline,
        ({ hash }) => hash(input.password),
      )
      const displayName = input.display_name ?? defaultDisplayName(email)
      if (requireVerifiedEmail) {
        await requests.registerLater(context, { email, passwordHash, displayName, address: device.address })
        return undefined
      }
      const { user, opened } = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          // The constraint covers the canonical spelling only.
          await store.requireRegistrations(tx)
          if (spellings.length > 1) await store.requireFree(tx, spellings)
          const user = await store.insertUser(tx, { id: newId(), email, displayName, passwordHash })
          const [opened] = await allInOrder([
            () => sessions.open(tx, user, device),
            () => lifecycle.registered(tx, { userId: user.id, email, address: device.address }),
            () => requests.verifyLater(tx, { id: user.id, email }),
          ])
          audit.record(tx, {
            action: 'account.registered',
            actor: { userId: user.id, sessionId: opened.sessionId },
            target: { type: 'user', id: user.id },
            context,
          })
          return { user, opened }
        },
        { grantsOnly: true },
      )
      record(context, 'account.registered', {
        address: device.address,
        user_id: user.id,
        session_id: opened.sessionId,
      })
      return opened.respond()
    },

    getMe: (context: RequestContext, caller: Caller): MaybePromise<User> =>
      profiles.get(caller.userId, context.deadline),

    updateMe: (context: RequestContext, caller: Caller, input: { display_name: string }): Promise<User> =>
      changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const user = await store.updateDisplayName(tx, caller.userId, input.display_name)
          if (user === undefined) throw new Fault('identity.not_signed_in')
          audit.record(tx, {
            action: 'account.changed',
            actor: caller,
            target: { type: 'user', id: caller.userId },
            after: { changed: Object.keys(input) },
            context,
          })
          await requireSignedInForShare(tx, caller)
          return toUser(user)
        },
        { grantsOnly: true },
      ),

    /**
     * Ends every session, and opens a new one in place of the caller's: a copy of its tokens is worth nothing any more. Of two
     * concurrent changes one wins; the other gets `identity.password_wrong`.
     */
    changePassword: async (
      context: RequestContext,
      caller: Caller,
      input: { current_password: string; new_password: string },
      device: Device,
    ): Promise<TokenResponse> => {
      const user = await requireActiveUser(context, caller.userId)
      await passwordRules.require(input.new_password, user.email ?? '', '/new_password')
      await passwordRules.refuseBreached(input.new_password, context.deadline)
      const { sessionId } = caller
      const presented = { sessionId, password: input.current_password, failure: 'password.not_changed' } as const
      const { hash, attempt, result } = await ownPassword(context, user, presented, device, (hashing) =>
        hashing.hash(input.new_password),
      )
      const reopened = await changes.commitAndInvalidate(context.deadline, async (tx) => {
        const replaced = await store.replacePasswordHash(tx, user.id, hash, result)
        if (!replaced) throw new Fault('identity.password_wrong')
        // A session that was ended meanwhile must not take the account over.
        await requireSignedInForShare(tx, caller)
        await sessions.endAll(tx, user.id, 'password_changed', { deviceOf: caller.sessionId })
        const changed = (await store.findUser(context.deadline, user.id, tx)) ?? user
        const opened = await sessions.reopen(tx, changed, device, caller.sessionId)
        audit.record(tx, {
          action: 'password.changed',
          actor: caller,
          target: { type: 'user', id: user.id },
          after: { session_id: opened.sessionId },
          context,
        })
        await protection.succeed(tx, attempt)
        await onPasswordChanged(tx, user.id)
        return opened
      })
      const { userId: user_id } = caller
      record(context, 'password.changed', { address: device.address, user_id, session_id: reopened.sessionId })
      return reopened.respond()
    },
  }
}
