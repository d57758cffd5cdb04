import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { timeText } from '../../kit/date-time.ts'
import { canonicalEmail } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import type { Mail } from '../../mail/service.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { DeviceStore } from '../device-store.ts'
import type { UserRow } from '../store.ts'
import type { WayInStore } from '../way-in-store.ts'
import type { Codes, GivenCode } from './codes.ts'
import type { LinkedIdentity } from './model.ts'
import type { IdentityProviderSettings } from './settings.ts'
import type { ProviderSignInDependencies } from './sign-in.ts'
import { type IdentityProviderStore, type LinkedIdentityRow, maxLinkedIdentities } from './store.ts'

type Dependencies = {
  store: IdentityProviderStore
  waysIn: WayInStore
  codes: Codes
  providers: readonly IdentityProviderSettings[]
  notices: Pick<DeviceStore, 'addNotice'>
  mail: Pick<Mail, 'enqueue'>
  changes: Changes
  verified: ProviderSignInDependencies['lifecycle']['verified']
  clock: Clock
  record: RecordSecurityEvent
}

/**
 * The identities with which a person signs in to an account.
 *
 * Guarantee: an identity is linked only by the signed-in owner of the account, with an address that its provider has verified, and
 * to an account whose own address is verified, or proven by this identity: so a person who registered an account under the
 * address of another one keeps no way into it. The last way in cannot be unlinked, by concurrent calls neither.
 */
export const createLinkedIdentities = ({
  store,
  waysIn,
  codes,
  providers,
  notices,
  mail,
  changes,
  verified,
  clock,
  record,
}: Dependencies) => {
  const names = new Map(providers.map(({ id, name }) => [id, name]))

  const toLinkedIdentity = (row: LinkedIdentityRow): LinkedIdentity => ({
    id: row.id,
    provider: { id: row.provider_id, name: names.get(row.provider_id) ?? row.provider_id },
    email: row.email,
    created_at: row.created_at.toISOString(),
    last_used_at: row.last_used_at.toISOString(),
  })

  /** Locks the account for no key update, before its session, and both until the transaction ends. */
  const lockOwn = async (tx: TransactionSql, caller: Caller): Promise<UserRow> => {
    const user = await store.lockUser(tx, caller.userId)
    if (user === undefined) throw new Fault('identity.not_signed_in')
    await requireSignedInForShare(tx, caller)
    return user
  }

  /** Sends a mail for each change, as for factors: of two in one day the second may be that of a thief. */
  const notify = async (
    tx: TransactionSql,
    userId: string,
    kind: 'identity_linked' | 'identity_unlinked',
    providerId: string,
  ): Promise<void> => {
    const at = clock.now()
    const provider = names.get(providerId) ?? providerId
    await notices.addNotice(tx, { userId, kind, details: { provider } }, new Date(at))
    const change = `sign-in with ${provider} was ${kind === 'identity_linked' ? 'added' : 'removed'}`
    await mail.enqueue(tx, { template: 'factor_changed', parameters: { time: timeText(at), change }, to: { userId } })
  }

  return {
    list: async (context: RequestContext, caller: Caller) => ({
      items: (await store.list(context.deadline, caller.userId)).map(toLinkedIdentity),
    }),

    link: async (
      context: RequestContext,
      caller: Caller,
      input: GivenCode,
      address: string,
    ): Promise<LinkedIdentity> => {
      const at = new Date(clock.now())
      const row = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const user = await lockOwn(tx, caller)
          const identity = await codes.use(tx, input, 'link', caller.userId)
          const email = identity.verifiedEmail === undefined ? undefined : canonicalEmail(identity.verifiedEmail)
          if (email === undefined) throw new Fault('identity_provider.email_unverified')
          const isOwnAddress = email === canonicalEmail(user.email ?? '')
          if (user.email_verified_at === null && !isOwnAddress) throw new Fault('linked_identity.address_unverified')
          const linked = await store.listOf(tx, user.id)
          if (linked.length >= maxLinkedIdentities)
            throw new Fault('linked_identity.too_many', { extensions: { limit: maxLinkedIdentities } })
          const { providerId: provider_id, issuer, subject } = identity
          const added = {
            id: newId(),
            user_id: user.id,
            provider_id,
            issuer,
            subject,
            email,
            created_at: at,
            last_used_at: at,
          }
          audit.record(tx, {
            action: 'identity.linked',
            actor: caller,
            target: { type: 'linked_identity', id: added.id },
            after: { provider_id },
            context,
          })
          await store.link(tx, added)
          if (user.email_verified_at === null) {
            await store.markVerified(tx, user.id, at)
            await verified(tx, user.id)
          }
          await notify(tx, user.id, 'identity_linked', provider_id)
          return added
        },
        { grantsOnly: true },
      )
      const { userId: user_id, sessionId: session_id } = caller
      record(context, 'identity.linked', { address, user_id, session_id, provider_id: row.provider_id })
      return toLinkedIdentity(row)
    },

    unlink: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
      const row = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const user = await lockOwn(tx, caller)
          const found = (await store.listOf(tx, user.id)).find((each) => each.id === id)
          if (found === undefined) throw new Fault('linked_identity.not_found')
          audit.record(tx, {
            action: 'identity.unlinked',
            actor: caller,
            target: { type: 'linked_identity', id },
            before: { provider_id: found.provider_id },
            context,
          })
          await store.unlink(tx, user.id, id)
          if (!(await waysIn.exists(tx, user.id))) throw new Fault('linked_identity.last_way_in')
          await notify(tx, user.id, 'identity_unlinked', found.provider_id)
          return found
        },
        { grantsOnly: true },
      )
      const { userId: user_id, sessionId: session_id } = caller
      record(context, 'identity.unlinked', { address, user_id, session_id, provider_id: row.provider_id })
    },
  }
}

export type LinkedIdentities = ReturnType<typeof createLinkedIdentities>
