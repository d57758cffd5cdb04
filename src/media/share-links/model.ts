import { closed, id, pageOf, pageQuery, type Static, t, text, timestamp } from '../../http/schema-types.ts'

/** A thing has no more of them at a time. */
export const maxLive = 100

export const newShareLink = closed({
  expires_in: t.Optional(
    t.Integer({ minimum: 60, maximum: 31_536_000, description: 'Seconds; until it is removed unless given' }),
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
  url: t.String({ description: 'Opens without an account; shown this once' }),
})
