import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Secrets } from '../../platform/secrets.ts'
import type { Webauthn } from '../../platform/webauthn.ts'
import type { IdentityStore } from '../store.ts'
import type { Operators } from '../users/operators.ts'
import type { WayInStore } from '../way-in-store.ts'
import type { Challenges } from './challenges.ts'
import { createFactorChanges } from './factor-changes.ts'
import type { FactorNotices } from './factor-notices.ts'
import type { SecondFactors } from './model.ts'
import { createPasskeyEnrolment, toPasskey } from './passkey-enrolment.ts'
import type { FactorStore } from './store.ts'
import { createTotpEnrolment } from './totp-enrolment.ts'

type Dependencies = {
  store: FactorStore
  waysIn: WayInStore
  users: Pick<IdentityStore, 'findUser' | 'endSessions'>
  notices: FactorNotices
  operators: Pick<Operators, 'requireForNoKeyUpdate'>
  secrets: Pick<Secrets, 'seal' | 'unseal'>
  /** Undefined: no domain is configured for passkeys. */
  webauthn: Webauthn | undefined
  challenges: Challenges
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
  /** Shown by authenticator apps. */
  issuer: string
  /** Whether the owner of an account can verify its e-mail address. */
  sendsMail: boolean
}

/**
 * Second factors as their owners set them up and remove them. The routes require a recent authentication.
 *
 * Guarantee: once the first factor is acknowledged no sign-in succeeds without one, and other sessions have to present it before
 * sensitive changes. Access through teams that require a second factor begins with the first factor and ends with the last one, at
 * once. The owner gets notice of each change. Recovery codes exist only beside a factor.
 *
 * Where mails are configured a factor is added only once the address is verified: `identity.email_not_verified`. Otherwise a person
 * who registered under the address of another one could add a passkey, and keep it as a way in after the owner of the address has
 * set a new password.
 */
export const createEnrolment = (dependencies: Dependencies) => {
  const { store, users, operators, changes, clock, record } = dependencies
  const factorChanges = createFactorChanges(dependencies)
  const { change, notify, issueRecoveryCodes } = factorChanges

  return {
    ...createTotpEnrolment({ ...dependencies, factorChanges }),
    ...createPasskeyEnrolment({ ...dependencies, factorChanges }),

    list: async (context: RequestContext, { userId }: Caller): Promise<SecondFactors> => {
      const rows = await store.find(context.deadline, userId)
      const confirmedAt = rows.totp?.confirmed_at ?? null
      return {
        totp: confirmedAt === null ? null : { confirmed_at: confirmedAt.toISOString() },
        passkeys: rows.passkeys.map(toPasskey),
        recovery_codes_left: rows.recoveryCodesLeft,
      }
    },

    /** Throws `second_factor.none`. */
    replaceRecoveryCodes: async (context: RequestContext, caller: Caller, address: string) => {
      const as = { notice: 'recovery_codes_replaced', event: 'recovery_codes.replaced' } as const
      const codes = await change(context, caller, as, address, async (tx) => {
        if (!(await store.hasSecondFactor(tx, caller.userId))) throw new Fault('second_factor.none')
        return issueRecoveryCodes(tx, caller.userId)
      })
      return { recovery_codes: codes }
    },

    /**
     * Removes every second factor of an account whose owner has lost them, and ends its sessions. By an operator, who has made
     * sure of who asks.
     */
    removeAllByOperator: async (
      context: RequestContext,
      caller: Caller,
      userId: string,
      address: string,
    ): Promise<void> => {
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        const user = await operators.requireForNoKeyUpdate(tx, caller, userId)
        if (user === undefined || user.status === 'deleted') throw new Fault('user.not_found')
        audit.record(tx, {
          action: 'user.second_factors_removed',
          actor: caller,
          target: { type: 'user', id: userId },
          context,
        })
        await store.lockForChange(tx, userId)
        if (!(await store.removeAll(tx, userId))) return
        await users.endSessions(tx, userId, 'ended_by_operator', new Date(clock.now()))
        await notify(tx, userId, 'second_factors_removed', address)
      })
      record(context, 'user.second_factors_removed', { address, user_id: userId, by: caller.userId })
    },
  }
}

export type Enrolment = ReturnType<typeof createEnrolment>
