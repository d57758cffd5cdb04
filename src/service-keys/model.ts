import { scopes } from '../access/policy/matrix.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../http/schema-types.ts'

const scopeList = t.Array(oneOf(scopes), { minItems: 1, maxItems: scopes.length, uniqueItems: true })

export const serviceKeyParams = closed({ service_key_id: id('Service key') })
export const page = closed(pageQuery)

const limitPerSecond = t.Union([t.Integer({ minimum: 1, maximum: 1_000_000 }), t.Null()], {
  description: 'Requests per second with this key, a batch by its items; null: no limit',
})
/** The most addresses and ranges of one key. */
const maxNetworks = 32
const allowedNetworks = t.Union(
  [t.Array(t.String({ minLength: 2, maxLength: 49 }), { minItems: 1, maxItems: maxNetworks }), t.Null()],
  {
    description:
      'Addresses, and ranges such as 203.0.113.0/24 or 2001:db8::/32, from which the key may be used; null: from any. A range is stored without the bits after its prefix',
  },
)
const expiresAt = t.String({
  format: 'date-time',
  description: 'Must be in the future. Without it the key never expires',
})

/** At least one of them. */
export const serviceKeyChanges = t.Object(
  {
    limit_per_second: t.Optional(limitPerSecond),
    allowed_networks: t.Optional(allowedNetworks),
    expires_at: t.Optional(t.Union([expiresAt, t.Null()], { description: 'Must be in the future; null: never' })),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type ServiceKeyChanges = Static<typeof serviceKeyChanges>

export const newServiceKey = closed({
  name: text(1, 200),
  scopes: scopeList,
  expires_at: t.Optional(expiresAt),
  limit_per_second: t.Optional(limitPerSecond),
  allowed_networks: t.Optional(allowedNetworks),
})
export type NewServiceKey = Static<typeof newServiceKey>

const properties = {
  id: id('Service key'),
  name: t.String(),
  scopes: scopeList,
  created_by: id('User'),
  created_at: timestamp(),
  expires_at: t.Union([timestamp(), t.Null()]),
  last_used_at: t.Union([timestamp(), t.Null()], { description: 'Accurate to one minute' }),
  revoked_at: t.Union([timestamp(), t.Null()]),
  limit_per_second: limitPerSecond,
  allowed_networks: allowedNetworks,
}

export const serviceKey = closed(properties)
export type ServiceKey = Static<typeof serviceKey>
export const serviceKeyPage = pageOf(serviceKey)

export const createdServiceKey = closed({
  ...properties,
  key: t.String({
    description: 'Send it as `Authorization: Bearer vsk_…`. Returned only once: the server stores a hash',
  }),
})
export type CreatedServiceKey = Static<typeof createdServiceKey>
