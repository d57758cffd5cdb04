import { closed, id, pageOf, pageQuery, type Static, t, text, timestamp } from '../../http/schema-types.ts'

/** Most valid share links that one media item may have. */
export const maxShareLinks = 100

export const newShareLink = closed({
  expires_in: t.Optional(
    t.Integer({
      minimum: 60,
      maximum: 31_536_000,
      description: 'Lifetime in seconds; default: valid until it is removed',
    }),
  ),
  label: t.Optional(text(1, 200)),
})
export type NewShareLink = Static<typeof newShareLink>

export const shareLinkParams = closed({ media_id: id('Media'), share_link_id: id('Share link') })
export const shareLinkQuery = closed(pageQuery)

const fields = {
  id: id('Share link'),
  label: t.Union([t.String(), t.Null()]),
  created_by: id('User'),
  created_at: timestamp(),
  expires_at: t.Union([timestamp(), t.Null()]),
}

export const shareLink = closed(fields)
export type ShareLink = Static<typeof shareLink>
export const shareLinkPage = pageOf(shareLink)

export const issuedShareLink = closed({
  ...fields,
  url: t.String({ description: 'Works without an account; shown only in this response' }),
})
