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

/** How many ancestors a generation may have. */
export const maxDepth = 64

/** Why nothing came of one: the provider refused, could not be had, took too long, made something else, or another reason. */
export const failures = ['refused', 'unavailable', 'timeout', 'invalid_output', 'failed'] as const

const title = text(0, 200)
const intent = oneOf(intents)
const negativePrompt = text(0, 4000)
const value = t.Union([t.String(), t.Number(), t.Boolean()])
/** By name; which there are depends on the model. */
const parameters = (description: string) => t.Object({}, { additionalProperties: value, description })
const model = t.String({ minLength: 1, maxLength: 128, pattern: modelIdPattern })

export const generationParams = closed({ generation_id: id('Generation') })

export const newGeneration = closed({
  project_id: t.Optional(id('Project it is made in; without one it is the owner’s alone')),
  model,
  prompt: text(1, 4000),
  negative_prompt: t.Optional(negativePrompt),
  parameters: t.Optional(parameters('As the model takes them; see models')),
  outputs: t.Optional(t.Integer({ minimum: 1, maximum: 16, description: 'How many; 1 unless given' })),
  title: t.Optional(title),
  intent: t.Optional(intent),
  reference_media_id: t.Optional(id('Picture to go by, for models that take one; it needs to be downloadable')),
  parent_id: t.Optional(id('Generation it is made from; goes with an intent other than `original`')),
})
export type NewGeneration = Static<typeof newGeneration>

export const generationChanges = t.Object(
  {
    title: t.Optional(title),
    project_id: t.Optional(t.Union([id('Project it moves to'), t.Null({ description: 'Out of its project' })])),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type GenerationChanges = Static<typeof generationChanges>

export const favorite = closed({ favorite: t.Boolean() })
export type Favorite = Static<typeof favorite>

export const generationQuery = closed({
  ...pageQuery,
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
  depth: t.Integer({ minimum: 0, maximum: maxDepth, description: 'How many ancestors it has; see provenance' }),
  model: t.String(),
  prompt: t.String(),
  negative_prompt: t.String(),
  parameters: parameters('All that it is made with, those included that were not given'),
  reference_media_id: t.Union([id('Picture it goes by'), t.Null()], {
    description: 'Told to its owner alone; null without one, and when that was deleted since',
  }),
  outputs: t.Integer({ minimum: 1 }),
  price: t.Integer({ minimum: 0, description: 'Credits; what comes to nothing is refunded' }),
  status: oneOf(generationStatuses),
  progress: t.Number({ minimum: 0, maximum: 1, description: 'Of the attempt under way; 1 when it is completed' }),
  failure: t.Union([oneOf(failures), t.Null()], { description: 'Why it failed, where it did' }),
  favorite: t.Boolean({ description: 'Whether it is one of the caller’s favorites' }),
  created_at: timestamp(),
  updated_at: timestamp(),
  started_at: t.Union([timestamp(), t.Null()]),
  finished_at: t.Union([timestamp(), t.Null()]),
})
export type Generation = Static<typeof generation>
export const generationPage = pageOf(generation)

const ancestor = closed({
  id: id('Generation'),
  owner_id: id('User'),
  project_id: t.Union([id('Project'), t.Null()]),
  intent,
  title: t.String(),
  status: oneOf(generationStatuses),
  created_at: timestamp(),
  distance: t.Integer({ minimum: 1, maximum: maxDepth, description: '1 is the parent' }),
})

export const provenance = closed({
  items: t.Array(ancestor, { description: 'The ancestors the caller may read, nearest first' }),
  hidden: t.Integer({ minimum: 0, maximum: maxDepth, description: 'How many others there are, deleted ones included' }),
})
export type Provenance = Static<typeof provenance>
