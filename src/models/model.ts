import { closed, modelIdPattern, oneOf, pageOf, pageQuery, type Static, t } from '../http/schema-types.ts'
import { kinds, parameterTypes, providerNames } from './registry.ts'

/** Ids have slashes in them, as they are or percent-encoded. */
export const modelParams = closed({
  model_id: t.String({
    minLength: 1,
    maxLength: 128,
    pattern: modelIdPattern,
    description: 'Model; its slashes may be sent as they are',
  }),
})
export const page = closed(pageQuery)

const value = t.Union([t.String(), t.Number(), t.Boolean()])

const parameter = closed({
  type: oneOf(parameterTypes),
  minimum: t.Optional(t.Number()),
  maximum: t.Optional(t.Number()),
  values: t.Optional(t.Array(value, { minItems: 1, description: 'The only ones there are' })),
  default: t.Optional(value),
  description: t.String(),
})

export const offer = closed({
  id: t.String(),
  provider: oneOf(providerNames),
  kind: oneOf(kinds),
  available: t.Boolean({ description: 'Whether this deployment can run it' }),
  credits: t.Integer({ minimum: 0, description: 'The price of one output' }),
  max_outputs: t.Integer({ minimum: 1 }),
  example: closed({
    outputs: t.Integer({ minimum: 1 }),
    price: t.Integer({ minimum: 0, description: 'Credits; always `credits` times `outputs`' }),
  }),
  parameters: t.Object({}, { additionalProperties: parameter, description: 'By name; there are no others' }),
  negative_prompt: t.Boolean({ description: 'Whether it takes one' }),
  reference_image: t.Boolean({ description: 'Whether it takes one' }),
  reference_required: t.Boolean({ description: 'Whether it needs one' }),
})
export type Offer = Static<typeof offer>
export const offerPage = pageOf(offer)
