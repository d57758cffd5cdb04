import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { makeServiceKey } from '../access/service-key.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Operators } from '../identity/users/operators.ts'
import { canonicalRange, isAddressRange } from '../kit/client-address.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { CreatedServiceKey, NewServiceKey, ServiceKey, ServiceKeyChanges } from './model.ts'
import type { ServiceKeyRow, ServiceKeyStore } from './store.ts'

const recordServiceKey = recorderOf('service_key')

const toServiceKey = (row: ServiceKeyRow): ServiceKey => ({
  id: row.id,
  name: row.name,
  scopes: row.scopes,
  created_by: row.created_by,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at?.toISOString() ?? null,
  last_used_at: row.last_used_at?.toISOString() ?? null,
  revoked_at: row.revoked_at?.toISOString() ?? null,
  limit_per_second: row.limit_per_second,
  allowed_networks: row.allowed_networks,
})

/** False for a day that its month does not have: the Date parser would move it into the next month. */
const isCalendarDay = (text: string): boolean => {
  const [year = 0, month = 0, day = 0] = text.slice(0, 10).split('-').map(Number)
  return new Date(Date.UTC(year, month - 1, day)).getUTCDate() === day
}

const toExpiry = (text: string | null, now: Date): Date | null => {
  if (text === null) return null
  const expiry = new Date(text)
  // A UTC offset can move the time into a year of five digits.
  if (isCalendarDay(text) && expiry > now && expiry.getUTCFullYear() <= 9_999) return expiry
  throw new Fault('request.invalid', {
    problems: [{ in: 'body', pointer: '/expires_at', detail: 'must be a time in the future' }],
  })
}

/** Each once, canonical, without the bits after the prefix. */
const toNetworks = (given: readonly string[] | null): string[] | null => {
  if (given === null) return null
  const problems = given.flatMap((text, at) =>
    isAddressRange(text)
      ? []
      : [
          {
            in: 'body' as const,
            pointer: `/allowed_networks/${at}`,
            detail:
              'must be an IP address, or a range with a prefix of 1 to 32 bits for IPv4 and 1 to 128 bits for IPv6',
          },
        ],
  )
  if (problems.length > 0) throw new Fault('request.invalid', { problems })
  return [...new Set(given.map(canonicalRange))]
}

/**
 * Keys with which services call the API. The route admits only operators of the platform, and their role is rechecked inside
 * the transaction.
 *
 * Guarantee: the text of a key is returned once and never stored. A revoked key is refused on every instance once `revoke` has
 * resolved.
 */
export const createServiceKeys = ({
  store,
  operators,
  changes,
  clock,
  record,
}: {
  store: ServiceKeyStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
}) => ({
  create: async (
    context: RequestContext,
    caller: Caller,
    input: NewServiceKey,
    address: string,
  ): Promise<CreatedServiceKey> => {
    const now = new Date(clock.now())
    const expiry = toExpiry(input.expires_at ?? null, now)
    const networks = toNetworks(input.allowed_networks ?? null)
    const id = newId()
    const { key, secretHash } = makeServiceKey(id)
    const created = await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await operators.requireForShare(tx, caller)
        recordServiceKey(tx, context, caller, id, 'service_key.created', {
          after: {
            scopes: input.scopes,
            expires_at: expiry?.toISOString() ?? null,
            limit_per_second: input.limit_per_second ?? null,
          },
        })
        const row = await store.insert(tx, {
          id,
          name: input.name,
          scopes: input.scopes,
          secret_hash: secretHash,
          created_by: caller.userId,
          created_at: now,
          expires_at: expiry,
          limit_per_second: input.limit_per_second ?? null,
          allowed_networks: networks,
        })
        return { ...toServiceKey(row), key }
      },
      { grantsOnly: true },
    )
    record(context, 'service_key.created', { address, by: caller.userId, service_key_id: id, scopes: created.scopes })
    return created
  },

  list: async (context: RequestContext, place: { after: string | null; limit: number }) => {
    const { items, next_cursor } = toPage(await store.list(context.deadline, place), place.limit)
    return { items: items.map(toServiceKey), next_cursor }
  },

  /** Limit, networks and expiry count on every instance once this has resolved. */
  change: async (
    context: RequestContext,
    caller: Caller,
    { id, changes: given }: { id: string; changes: ServiceKeyChanges },
    address: string,
  ): Promise<ServiceKey> => {
    const { limit_per_second, allowed_networks, expires_at } = given
    const restrictions = {
      ...(allowed_networks !== undefined && { allowed_networks: toNetworks(allowed_networks) }),
      ...(expires_at !== undefined && { expires_at: toExpiry(expires_at, new Date(clock.now())) }),
    }
    const limit = limit_per_second === undefined ? {} : { limit_per_second }
    const changed = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      const { allowed_networks: networks } = restrictions
      recordServiceKey(
        tx,
        context,
        caller,
        id,
        networks === undefined ? 'service_key.limited' : 'service_key.restricted',
        {
          after: { limit_per_second, expires_at: expires_at ?? undefined, allowed_networks: networks },
        },
      )
      const row = await store.update(tx, id, { ...limit, ...restrictions })
      if (row === undefined) throw new Fault('service_key.not_found')
      return toServiceKey(row)
    })
    const who = { address, by: caller.userId, service_key_id: id }
    if (limit_per_second !== undefined) record(context, 'service_key.limited', { ...who, ...limit })
    if (Object.keys(restrictions).length > 0) {
      const { allowed_networks: networks, expires_at: until } = changed
      record(context, 'service_key.restricted', { ...who, allowed_networks: networks, expires_at: until })
    }
    return changed
  },

  revoke: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
    await changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      recordServiceKey(tx, context, caller, id, 'service_key.revoked')
      if (!(await store.revoke(tx, id, new Date(clock.now())))) throw new Fault('service_key.not_found')
    })
    record(context, 'service_key.revoked', { address, by: caller.userId, service_key_id: id })
  },
})

export type ServiceKeys = ReturnType<typeof createServiceKeys>
