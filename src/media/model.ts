import { closed, id, oneOf, pageOf, pageQuery, type Static, t, timestamp } from '../schema.ts'

/** What can be had of a picture: itself, or one that fits into a square of so many pixels. */
export const variants = ['original', '256', '512', '1024'] as const
export type Variant = (typeof variants)[number]

export const contentTypes = ['image/webp', 'image/png', 'image/jpeg'] as const

export const ofGeneration = closed({ generation_id: id('Generation') })
export const mediaParams = closed({ media_id: id('Media') })
export const page = closed(pageQuery)
export const contentQuery = closed({ variant: t.Optional(oneOf(variants)) })

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
  variants: t.Array(oneOf(variants), {
    description: 'What its content can be had as; all but the original are WebP, and never larger than it',
  }),
  created_at: timestamp(),
})
export type Media = Static<typeof media>
export const mediaPage = pageOf(media)
