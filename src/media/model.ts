import type { Action, ResourceRef } from '../access/policy/matrix.ts'
import type { FaultCode } from '../fault.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, timestamp } from '../http/schema-types.ts'

/**
 * Variants of an image: the original, and thumbnails that fit a square of 256, 512 or 1,024 pixels. A video has the original
 * only.
 */
export const variants = ['original', '256', '512', '1024'] as const
export type Variant = (typeof variants)[number]

export const imageTypes = ['image/webp', 'image/png', 'image/jpeg'] as const
export const contentTypes = [...imageTypes, 'video/mp4'] as const

export const ofGeneration = closed({ generation_id: id('Generation') })
export const mediaParams = closed({ media_id: id('Media') })

type RouteInput = { readonly params: Record<string, string> }
export const mediaOf = ({ params }: RouteInput): ResourceRef => ({ type: 'media', id: params['media_id'] ?? '' })
export const mediaResources = (input: RouteInput) => [mediaOf(input)]

/** Any text matches the schema: a malformed secret gets the same refusal as a wrong one, from the code that verifies it. */
const secret = (description: string) => t.Optional(t.String({ description }))

/** Open: the route itself refuses unknown parameters, but not on links. */
export const contentQuery = t.Object(
  {
    variant: t.Optional({ ...oneOf(variants), description: 'A video has the original only' }),
    signature: secret(
      'Signature of a signed link, which names the variant itself. Unknown parameters beside it are ignored',
    ),
    share: secret('Secret of a share link. Unknown parameters beside it are ignored'),
  },
  { additionalProperties: true },
)

export type ContentQuery = Static<typeof contentQuery>

/** Whether a query carries a signed link or a share link, so that no bearer token is needed. */
export const hasLink = (query: unknown): boolean => {
  const { signature, share } = query as ContentQuery
  return signature !== undefined || share !== undefined
}

/** What to check before content is served: the user whose permission counts, the action it takes, and the code of a refusal. */
export type ContentAccess = {
  readonly userId: string
  readonly action: Action
  readonly variant: Variant
  readonly refusal: FaultCode
}

export const media = closed({
  id: id('Media'),
  generation_id: t.Union([id('Generation'), t.Null()], {
    description: 'The generation that produced it; null for an upload',
  }),
  owner_id: id('User'),
  position: t.Union([t.Integer({ minimum: 0 }), t.Null()], {
    description: 'Its index among the outputs of the generation, from 0; null for an upload',
  }),
  content_type: oneOf(contentTypes),
  bytes: t.Integer({
    minimum: 1,
    description: 'Size as stored: what follows the picture and its private metadata are removed',
  }),
  width: t.Integer({ minimum: 1, description: 'Pixels' }),
  height: t.Integer({ minimum: 1, description: 'Pixels' }),
  duration_ms: t.Union([t.Integer({ minimum: 1 }), t.Null()], {
    description: 'Duration in milliseconds; null for an image',
  }),
  variants: t.Array(oneOf(variants), {
    description:
      'Variants of its content. Thumbnails are WebP and never larger than the original. A video has the original only',
  }),
  created_at: timestamp(),
})
export type Media = Static<typeof media>

const variantList = variants.join('|')
/** Query parameter of reads of media, and of generations with their media. */
export const linksParameter = t.Optional(
  t.String({
    pattern: `^(?:${variantList})(?:,(?:${variantList})){0,${variants.length - 1}}$`,
    description: `Variants to add signed links to, separated by commas: \`${variants.join(',')}\`. The links of a session stay the same for five minutes, so that browsers use their stored copies`,
  }),
)
export const mediaQuery = closed({ links: linksParameter })
export const page = closed({ ...pageQuery, links: linksParameter })
export const toVariants = (given: string | undefined): readonly Variant[] =>
  given === undefined ? [] : variants.filter((variant) => given.split(',').includes(variant))

/** A URL for each variant that was asked for and that the media has. */
const urls = closed({
  original: t.Optional(t.String()),
  '256': t.Optional(t.String()),
  '512': t.Optional(t.String()),
  '1024': t.Optional(t.String()),
} satisfies Record<Variant, unknown>)

export const linkedMedia = closed({
  ...media.properties,
  links: t.Optional({
    ...urls,
    description:
      'Signed links by variant, where a person asks for `links`. Each works without a token for an hour or more',
  }),
  links_expire_at: t.Optional(timestamp()),
})
export type LinkedMedia = Static<typeof linkedMedia>
export const mediaPage = pageOf(linkedMedia)
