import { closed, oneOf, type Static, t, timestamp } from '../../http/schema-types.ts'
import { variants } from '../model.ts'

/** The method a link permits. A link for GET permits HEAD too. */
export const linkMethods = ['GET', 'HEAD'] as const
export type LinkMethod = (typeof linkMethods)[number]

const minTtlS = 60
export const maxTtlS = 86_400
export const defaultTtlS = 3_600

export const newLink = closed({
  variant: t.Optional(oneOf(variants)),
  method: t.Optional(oneOf(linkMethods)),
  expires_in: t.Optional(
    t.Integer({ minimum: minTtlS, maximum: maxTtlS, description: 'Lifetime in seconds; default 3600' }),
  ),
})
export type NewLink = Static<typeof newLink>

export const link = closed({
  url: t.String({ description: 'Works without a token: any holder of the link can fetch the bytes' }),
  expires_at: timestamp(),
  variant: oneOf(variants),
  method: oneOf(linkMethods),
})
export type Link = Static<typeof link>
