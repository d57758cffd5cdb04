import type { Action, ResourceRef } from '../access/policy/matrix.ts'
import type { FaultCode } from '../fault.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, timestamp } from '../http/schema-types.ts'

/** What can be had of a picture: itself, or one that fits into a square of so many pixels. Of a film: itself. */
export const variants = ['original', '256', '512', '1024'] as const
export type Variant = (typeof variants)[number]

export const imageTypes = ['image/webp', 'image/png', 'image/jpeg'] as const
export const contentTypes = [...imageTypes, 'video/mp4'] as const

export const ofGeneration = closed({ generation_id: id('Generation') })
export const mediaParams = closed({ media_id: id('Media') })
export const page = closed(pageQuery)

type RouteInput = { readonly params: Record<string, string> }
export const mediaOf = ({ params }: RouteInput): ResourceRef => ({ type: 'media', id: params['media_id'] ?? '' })
export const mediaResources = (asked: RouteInput) => [mediaOf(asked)]

/** By what its text is looked at, and refused in one way whatever is wrong with it. */
const secret = (description: string) => t.Optional(t.String({ description }))

export const contentQuery = closed({
  variant: t.Optional({ ...oneOf(variants), description: 'Of a film there is the original alone' }),
  signature: secret('Of a signed link, which says itself which variant'),
  share: secret('Of a share link'),
})

export type ContentQuery = Static<typeof contentQuery>

/** Whether a query has what opens without a token. */
export const hasLink = (query: unknown): boolean => {
  const { signature, share } = query as ContentQuery
  return signature !== undefined || share !== undefined
}

/** Somebody comes for bytes: by whose right, and what is said where that person has none (any more). */
export type ContentAccess = {
  readonly userId: string
  readonly action: Action
  readonly variant: Variant
  readonly refusal: FaultCode
}

export const media = closed({
  id: id('Media'),
  generation_id: t.Union([id('Generation it was made for'), t.Null()], { description: 'Null for an upload' }),
  owner_id: id('User'),
  position: t.Union([t.Integer({ minimum: 0 }), t.Null()], {
    description: 'Which of the outputs it is; null for an upload',
  }),
  content_type: oneOf(contentTypes),
  bytes: t.Integer({ minimum: 1 }),
  width: t.Integer({ minimum: 1, description: 'Pixels' }),
  height: t.Integer({ minimum: 1, description: 'Pixels' }),
  duration_ms: t.Union([t.Integer({ minimum: 1 }), t.Null()], {
    description: 'How long it lasts in milliseconds; null for a picture',
  }),
  variants: t.Array(oneOf(variants), {
    description:
      'What its content can be had as; all but the original are WebP, and never larger than it. Of a film there is the ' +
      'original alone: no thumbnails are made of it',
  }),
  created_at: timestamp(),
})
export type Media = Static<typeof media>
export const mediaPage = pageOf(media)
