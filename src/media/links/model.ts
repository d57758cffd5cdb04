import { closed, id, oneOf, type Static, t, timestamp } from '../../http/schema-types.ts'
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

/** Most links of one request. */
export const maxLinks = 100

export const newLinks = closed({
  links: t.Array(
    closed({ media_id: id('Media'), variant: newLink.properties.variant, method: newLink.properties.method }),
    { minItems: 1, maxItems: maxLinks },
  ),
  expires_in: newLink.properties.expires_in,
})
export type NewLinks = Static<typeof newLinks>

export const createdLinks = closed({
  items: t.Array(
    closed({
      media_id: id('Media'),
      variant: oneOf(variants),
      method: oneOf(linkMethods),
      url: t.Union([link.properties.url, t.Null()], { description: 'Null where the link was refused' }),
      expires_at: t.Union([timestamp(), t.Null()]),
      refusal: t.Union([oneOf(['media.not_found', 'variant.not_found'] as const), t.Null()], {
        description:
          '`media.not_found`: the media does not exist or is not visible to you. `variant.not_found`: it is a video, which has the original only',
      }),
    }),
    { description: 'In the order of the request' },
  ),
})
