import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Secrets } from '../../platform/secrets.ts'
import { findTotpStep, newTotpSecret, showTotpSecret } from '../../platform/totp.ts'
import type { FactorChanges } from './factor-changes.ts'
import type { FactorStore } from './store.ts'

type Dependencies = {
  store: FactorStore
  factorChanges: FactorChanges
  secrets: Pick<Secrets, 'seal' | 'unseal'>
  changes: Changes
  clock: Clock
  /** Shown by authenticator apps. */
  issuer: string
}

/** Setting an authenticator app up, and removing it. */
export const createTotpEnrolment = (dependencies: Dependencies) => {
  const { store, factorChanges, secrets, changes, clock, issuer } = dependencies
  const { requireProvenOwner, change, add, remove } = factorChanges
  return {
    /** Starts the set-up of an authenticator app. It is no factor before it is confirmed by a code. */
    startTotp: async (context: RequestContext, caller: Caller) => {
      const user = await requireProvenOwner(context, caller)
      const secret = newTotpSecret()
      const sealed = secrets.seal('totp-secret', secret, user.id)
      await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await requireSignedInForShare(tx, caller)
          if (!(await store.startTotp(tx, user.id, sealed, new Date(clock.now()))))
            throw new Fault('totp.already_enabled')
          audit.record(tx, {
            action: 'totp.started',
            actor: caller,
            target: { type: 'user', id: user.id },
            context,
          })
        },
        { grantsOnly: true },
      )
      return showTotpSecret(secret, { issuer, account: user.email ?? user.id })
    },

    confirmTotp: async (context: RequestContext, caller: Caller, code: string, address: string) => {
      const { userId } = caller
      const { totp: started } = await store.find(context.deadline, userId)
      if (started === undefined) throw new Fault('totp.not_started')
      if (started.confirmed_at !== null) throw new Fault('totp.already_enabled')
      const sealedSecret = started.sealed_secret
      const step = findTotpStep(secrets.unseal('totp-secret', sealedSecret, userId), code, clock.now())
      if (step === undefined) throw new Fault('identity.second_factor_wrong')
      const as = { notice: 'totp_added', event: 'totp.enabled' } as const
      const { recoveryCodes } = await change(context, caller, as, address, (tx) =>
        add(tx, caller, async () => {
          const confirmed = { sealedSecret, step, at: new Date(clock.now()) }
          if (!(await store.confirmTotp(tx, userId, confirmed))) throw new Fault('totp.not_started')
        }),
      )
      return { recovery_codes: recoveryCodes }
    },

    removeTotp: (context: RequestContext, caller: Caller, address: string): Promise<void> =>
      change(context, caller, { notice: 'totp_removed', event: 'totp.disabled' }, address, (tx) =>
        remove(tx, caller, 'totp.not_found', () => store.removeTotp(tx, caller.userId)),
      ),
  }
}
