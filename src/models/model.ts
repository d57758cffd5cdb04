import { closed, modelIdPattern, oneOf, pageOf, pageQuery, type Static, t } from '../http/schema-types.ts'
import { kinds, parameterTypes, providerNames } from './registry.ts'

/** The id contains slashes; both `/` and `%2F` are accepted. */
export const modelParams = closed({
  model_id: t.String({
    minLength: 1,
    maxLength: 128,
    pattern: modelIdPattern,
    description: 'Model id; its slashes need not be percent-encoded',
  }),
})
export const page = closed(pageQuery)

const value = t.Union([t.String(), t.Number(), t.Boolean()])

const parameter = closed({
  type: oneOf(parameterTypes),
  minimum: t.Optional(t.Number()),
  maximum: t.Optional(t.Number()),
  values: t.Optional(t.Array(value, { minItems: 1, description: 'The accepted values' })),
  default: t.Optional(value),
  description: t.String(),
})

export const offer = closed({
  id: t.String(),
  provider: oneOf(providerNames),
  kind: oneOf(kinds),
  available: t.Boolean({ description: 'Whether this deployment can run the model' }),
  credits: t.Integer({ minimum: 0, description: 'Price of one output' }),
  max_outputs: t.Integer({ minimum: 1 }),
  example: closed({
    outputs: t.Integer({ minimum: 1 }),
    price: t.Integer({ minimum: 0, description: 'Credits; always `credits` times `outputs`' }),
  }),
  parameters: t.Object(
    {},
    { additionalProperties: parameter, description: 'By name; no other parameters are accepted' },
  ),
  negative_prompt: t.Boolean({ description: 'Whether the model accepts a negative prompt' }),
  reference_image: t.Boolean({ description: 'Whether the model accepts a reference picture' }),
  reference_required: t.Boolean({ description: 'Whether the model requires a reference picture' }),
})
export type Offer = Static<typeof offer>
export const offerPage = pageOf(offer)
