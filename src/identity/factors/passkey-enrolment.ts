import { Buffer } from 'node:buffer'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { newId } from '../../kit/id.ts'
import { challengeIn, type RegistrationResponseJSON, type Webauthn } from '../../platform/webauthn.ts'
import type { WayInStore } from '../way-in-store.ts'
import { type Challenges, challengeTtlMs } from './challenges.ts'
import type { FactorChanges } from './factor-changes.ts'
import type { Passkey } from './model.ts'
import { type PasskeyRow, toStoredCredential } from './passkey-store.ts'
import type { FactorStore } from './store.ts'

/** Passkeys that an account has at most. */
export const maxPasskeys = 20

export const toPasskey = (row: PasskeyRow): Passkey => ({
  id: row.id,
  name: row.name,
  synced: row.backed_up,
  created_at: row.created_at.toISOString(),
  last_used_at: row.last_used_at?.toISOString() ?? null,
})

type Dependencies = {
  store: FactorStore
  waysIn: WayInStore
  factorChanges: FactorChanges
  /** Undefined: no domain is configured for passkeys. */
  webauthn: Webauthn | undefined
  challenges: Challenges
  changes: Changes
  clock: Clock
}

/** Adding, renaming and removing passkeys. */
export const createPasskeyEnrolment = (dependencies: Dependencies) => {
  const { store, waysIn, factorChanges, webauthn, challenges, changes, clock } = dependencies
  const { requireProvenOwner, change, add, remove } = factorChanges
  const requireWebauthn = (): Webauthn => {
    if (webauthn === undefined) throw new Fault('passkey.not_configured')
    return webauthn
  }

  return {
    passkeyCreationOptions: async (context: RequestContext, caller: Caller) => {
      const user = await requireProvenOwner(context, caller)
      const known = await store.find(context.deadline, user.id)
      const challenge = challenges.issue('passkey-registration', { user: user.id, session: caller.sessionId })
      const handle = { id: Buffer.from(user.id), name: user.email ?? user.id, displayName: user.display_name }
      const exclude = known.passkeys.map(toStoredCredential)
      return { options: await requireWebauthn().creationOptions(challenge, handle, exclude, challengeTtlMs) }
    },

    addPasskey: async (
      context: RequestContext,
      caller: Caller,
      { name, passkey: response }: { name: string; passkey: RegistrationResponseJSON },
      address: string,
    ) => {
      const { userId } = caller
      const verifier = requireWebauthn()
      const challenge = challengeIn(response.response.clientDataJSON)
      const bound = challenges.open('passkey-registration', challenge)
      const isOwn = bound?.['user'] === userId && bound['session'] === caller.sessionId
      const credential =
        challenge !== undefined && isOwn ? await verifier.verifyRegistration(response, challenge) : undefined
      if (challenge === undefined || credential === undefined) throw new Fault('passkey.response_invalid')
      const rowId = newId()
      const as = { notice: 'passkey_added', event: 'passkey.added', passkeyId: rowId } as const
      const { added, recoveryCodes } = await change(context, caller, as, address, (tx) =>
        add(tx, caller, async () => {
          if (!(await challenges.use(tx, challenge))) throw new Fault('passkey.response_invalid')
          if ((await store.countPasskeys(tx, userId)) >= maxPasskeys)
            throw new Fault('passkey.too_many', { extensions: { limit: maxPasskeys } })
          return store.insertPasskey(tx, { ...credential, rowId, userId, name, at: new Date(clock.now()) })
        }),
      )
      return { passkey: toPasskey(added), recovery_codes: recoveryCodes }
    },

    renamePasskey: async (context: RequestContext, caller: Caller, id: string, name: string): Promise<Passkey> => {
      const row = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await requireSignedInForShare(tx, caller)
          const renamed = await store.renamePasskey(tx, caller.userId, id, name)
          if (renamed === undefined) return undefined
          audit.record(tx, {
            action: 'passkey.renamed',
            actor: caller,
            target: { type: 'passkey', id },
            context,
          })
          return renamed
        },
        { grantsOnly: true },
      )
      if (row === undefined) throw new Fault('passkey.not_found')
      return toPasskey(row)
    },

    /** Throws `identity.last_way_in` for the only passkey of an account without a password and without a usable identity. */
    removePasskey: (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> =>
      change(
        context,
        caller,
        { notice: 'passkey_removed', event: 'passkey.removed', passkeyId: id },
        address,
        async (tx) => {
          await remove(tx, caller, 'passkey.not_found', () => store.removePasskey(tx, caller.userId, id))
          if (!(await waysIn.exists(tx, caller.userId))) throw new Fault('identity.last_way_in')
        },
      ),
  }
}
