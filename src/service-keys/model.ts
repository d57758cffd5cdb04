import { scopes } from '../access/policy/matrix.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../http/schema-types.ts'

const scopeList = t.Array(oneOf(scopes), { minItems: 1, maxItems: scopes.length, uniqueItems: true })

export const serviceKeyParams = closed({ service_key_id: id('Service key') })
export const page = closed(pageQuery)

const limitPerSecond = t.Union([t.Integer({ minimum: 1, maximum: 1_000_000 }), t.Null()], {
  description: 'Requests per second with this key, a batch by its items; null: no limit',
})
export const serviceKeyChanges = closed({ limit_per_second: limitPerSecond })

export const newServiceKey = closed({
  name: text(1, 200),
  scopes: scopeList,
  expires_at: t.Optional(
    t.String({ format: 'date-time', description: 'Must be in the future. Without it the key never expires' }),
  ),
  limit_per_second: t.Optional(limitPerSecond),
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
