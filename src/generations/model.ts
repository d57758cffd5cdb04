import { generationStatuses, intents } from '../access/policy/matrix.ts'
import {
  closed,
  id,
  modelIdPattern,
  oneOf,
  pageOf,
  pageQuery,
  type Static,
  t,
  text,
  timestamp,
} from '../http/schema-types.ts'
import { imageRefusals } from '../media/formats/image-format.ts'
import { videoRefusals } from '../media/formats/video-format.ts'
import { linkedMedia, linksParameter } from '../media/model.ts'

/** Most ancestors of a generation. */
export const maxDepth = 64

/**
 * Why a generation failed: the provider refused the order, was unavailable, exceeded the time limit or returned something
 * that is not valid media; `failed` is any other reason.
 */
export const failures = ['refused', 'unavailable', 'timeout', 'invalid_output', 'failed'] as const
/** Why an output of a provider is not valid media, or not within the limits. */
export const failureDetails = [
  ...imageRefusals,
  ...videoRefusals.filter((reason) => !(imageRefusals as readonly string[]).includes(reason)),
] as const

const title = text(0, 200)
const intent = oneOf(intents)
const negativePrompt = text(0, 4000)
const value = t.Union([t.String(), t.Number(), t.Boolean()])
/** Values by parameter name; the model defines the names. */
const parameters = (description: string) => t.Object({}, { additionalProperties: value, description })
const model = t.String({ minLength: 1, maxLength: 128, pattern: modelIdPattern })

export const generationParams = closed({ generation_id: id('Generation') })

export const newGeneration = closed({
  project_id: t.Optional(id('Project of the generation; without one only its owner can see it')),
  model,
  prompt: text(1, 4000),
  negative_prompt: t.Optional(negativePrompt),
  parameters: t.Optional(parameters('Values for the parameters of the model; see `GET /models`')),
  outputs: t.Optional(
    t.Integer({
      minimum: 1,
      maximum: 16,
      description: 'Number of outputs, 1 by default; the model has its own maximum',
    }),
  ),
  title: t.Optional(title),
  intent: t.Optional(intent),
  reference_media_id: t.Optional(
    id('Reference picture, for models that accept one; the caller needs `download` on it'),
  ),
  parent_id: t.Optional(id('Parent; required for every intent except `original`, which has none')),
})
export type NewGeneration = Static<typeof newGeneration>

export const generationChanges = t.Object(
  {
    title: t.Optional(title),
    project_id: t.Optional(
      t.Union([
        id('Project to move the generation to'),
        t.Null({ description: 'Removes the generation from its project' }),
      ]),
    ),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type GenerationChanges = Static<typeof generationChanges>

export const favorite = closed({ favorite: t.Boolean() })
export type Favorite = Static<typeof favorite>

/** What a read of generations may add to each. */
const including = {
  include: t.Optional({ ...oneOf(['media'] as const), description: 'Adds the media of each generation as `media`' }),
  links: linksParameter,
}
export const oneGenerationQuery = closed(including)

export const generationQuery = closed({
  ...pageQuery,
  ...including,
  project_id: t.Optional(id('Only generations of this project')),
  owner_id: t.Optional(id('Only generations of this owner')),
  status: t.Optional(oneOf(generationStatuses)),
  intent: t.Optional(intent),
  model: t.Optional(model),
  favorite: t.Optional(oneOf(['true'] as const)),
})

export const generation = closed({
  id: id('Generation'),
  owner_id: id('User'),
  project_id: t.Union([id('Project'), t.Null()]),
  title: t.String(),
  intent,
  depth: t.Integer({ minimum: 0, maximum: maxDepth, description: 'Number of ancestors; see provenance' }),
  model: t.String(),
  prompt: t.String(),
  negative_prompt: t.String(),
  parameters: parameters('All parameters, including defaults and the chosen seed'),
  reference_media_id: t.Union([id('Reference picture'), t.Null()], {
    description: 'Shown to the owner only; null without a reference or after it was deleted',
  }),
  outputs: t.Integer({ minimum: 1 }),
  price: t.Integer({ minimum: 0, description: 'Credits; refunded if the generation fails or is cancelled' }),
  status: oneOf(generationStatuses),
  progress: t.Number({ minimum: 0, maximum: 1, description: 'Of the current attempt; 1 when completed' }),
  failure: t.Union([oneOf(failures), t.Null()], {
    description: 'Reason of the failure; null unless status is `failed`',
  }),
  failure_detail: t.Union([oneOf(failureDetails), t.Null()], {
    description:
      'Why an output of the provider was refused; null unless failure is `invalid_output`, and where unknown',
  }),
  favorite: t.Boolean({ description: 'Whether the generation is a favorite of the caller' }),
  created_at: timestamp(),
  updated_at: timestamp(),
  started_at: t.Union([timestamp(), t.Null()]),
  finished_at: t.Union([timestamp(), t.Null()]),
})
export type Generation = Static<typeof generation>

const includedMedia = t.Optional(
  t.Array(linkedMedia, {
    description: 'Where the request has `include=media`; empty until the generation is completed',
  }),
)

export const generationWithMedia = closed({ ...generation.properties, media: includedMedia })
export type GenerationWithMedia = Static<typeof generationWithMedia>
export const generationPage = pageOf(generationWithMedia)

export const streamQuery = closed({
  ticket: t.Optional(
    t.String({ description: 'Stream ticket, in place of an access token. Can be used once: reconnect with a new one' }),
  ),
})
export const streamTicket = closed({
  ticket: t.String(),
  url: t.String({ description: 'Of the stream, with the ticket' }),
  expires_at: timestamp(),
})

const ancestor = closed({
  id: id('Generation'),
  owner_id: id('User'),
  project_id: t.Union([id('Project'), t.Null()]),
  intent,
  title: t.String(),
  status: oneOf(generationStatuses),
  created_at: timestamp(),
  distance: t.Integer({ minimum: 1, maximum: maxDepth, description: '1 is the parent' }),
  media: includedMedia,
})

export const provenance = closed({
  items: t.Array(ancestor, { description: 'The ancestors the caller may read, nearest first' }),
  hidden: t.Integer({
    minimum: 0,
    maximum: maxDepth,
    description: 'Number of ancestors not shown: not visible to the caller, or deleted',
  }),
})
export type Provenance = Static<typeof provenance>
