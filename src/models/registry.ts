/** The services that run models. */
export const providerNames = ['local', 'fal', 'openai'] as const
export type ProviderName = (typeof providerNames)[number]

export const kinds = ['image', 'video'] as const
export type Kind = (typeof kinds)[number]

export const parameterTypes = ['integer', 'number', 'string', 'boolean'] as const
export type ParameterType = (typeof parameterTypes)[number]
export type ParameterValue = string | number | boolean

export type Parameter = {
  readonly type: ParameterType
  /** Inclusive bounds of a number. */
  readonly minimum?: number
  readonly maximum?: number
  /** The accepted values; any value of the type without it. */
  readonly values?: readonly ParameterValue[]
  /** Without a default, the provider chooses the value of a parameter that is not given. */
  readonly default?: ParameterValue
  readonly description: string
}

export type Model = {
  readonly id: string
  readonly provider: ProviderName
  /** The provider's id of the model. */
  readonly provider_model: string
  readonly kind: Kind
  /** Price of one output. */
  readonly credits: number
  readonly max_outputs: number
  readonly parameters: Readonly<Record<string, Parameter>>
  readonly negative_prompt: boolean
  /** Whether the model accepts a reference picture, and whether it requires one. */
  readonly reference_image: boolean
  readonly reference_required: boolean
}

const maxSeed = 2 ** 32 - 1
const seed: Parameter = {
  type: 'integer',
  minimum: 0,
  maximum: maxSeed,
  description:
    'The same seed and prompt give the same output; chosen at random when the order is accepted, unless given',
}

const side = (name: string): Parameter => ({
  type: 'integer',
  minimum: 64,
  maximum: 2_048,
  default: 512,
  description: `${name} in pixels`,
})

const oneOf = (values: readonly [string, ...string[]], description: string, fallback = values[0]): Parameter => ({
  type: 'string',
  values,
  default: fallback,
  description,
})

/** Sizes of the FLUX.1 models as documented by fal.ai, without custom sizes. */
const fluxSize = oneOf(
  ['landscape_4_3', 'landscape_16_9', 'square_hd', 'square', 'portrait_4_3', 'portrait_16_9'],
  'Shape and size, by the names of fal.ai',
)
const fluxFormat = oneOf(['jpeg', 'png'], 'Format of the image')
const fluxSteps = (maximum: number, fallback: number, minimum = 1): Parameter => ({
  type: 'integer',
  minimum,
  maximum,
  default: fallback,
  description: 'More steps take longer and show more detail',
})

const fluxGuidance: Parameter = {
  type: 'number',
  minimum: 1,
  maximum: 20,
  default: 3.5,
  description: 'How closely the output follows the prompt',
}

const models: readonly Model[] = [
  {
    id: 'local/procedural',
    provider: 'local',
    provider_model: 'procedural',
    kind: 'image',
    credits: 1,
    max_outputs: 4,
    parameters: {
      width: side('Width'),
      height: side('Height'),
      seed,
      format: oneOf(['webp', 'png'], 'Format of the image'),
    },
    negative_prompt: true,
    reference_image: true,
    reference_required: false,
  },
  {
    id: 'fal-ai/flux/schnell',
    provider: 'fal',
    provider_model: 'fal-ai/flux/schnell',
    kind: 'image',
    credits: 1,
    max_outputs: 4,
    parameters: { image_size: fluxSize, num_inference_steps: fluxSteps(12, 4), seed, output_format: fluxFormat },
    negative_prompt: false,
    reference_image: false,
    reference_required: false,
  },
  {
    id: 'fal-ai/flux/dev',
    provider: 'fal',
    provider_model: 'fal-ai/flux/dev',
    kind: 'image',
    credits: 3,
    max_outputs: 4,
    parameters: {
      image_size: fluxSize,
      num_inference_steps: fluxSteps(50, 28),
      guidance_scale: fluxGuidance,
      seed,
      output_format: fluxFormat,
    },
    negative_prompt: false,
    reference_image: false,
    reference_required: false,
  },
  {
    // The output has the size of the reference, which is sent with at most 1,024 pixels a side: one megapixel by fal.ai's price
    // list.
    id: 'fal-ai/flux/dev/image-to-image',
    provider: 'fal',
    provider_model: 'fal-ai/flux/dev/image-to-image',
    kind: 'image',
    credits: 3,
    max_outputs: 4,
    parameters: {
      strength: {
        type: 'number',
        minimum: 0.01,
        maximum: 1,
        default: 0.95,
        description: 'How far the output may go from the reference',
      },
      num_inference_steps: fluxSteps(50, 40, 10),
      guidance_scale: fluxGuidance,
      seed,
      output_format: fluxFormat,
    },
    negative_prompt: false,
    reference_image: true,
    reference_required: true,
  },
  {
    // Only clips of 5 seconds: clips of 10 seconds cost more, and a model has one price.
    id: 'fal-ai/kling-video/v2/master/text-to-video',
    provider: 'fal',
    provider_model: 'fal-ai/kling-video/v2/master/text-to-video',
    kind: 'video',
    credits: 140,
    max_outputs: 1,
    parameters: {
      aspect_ratio: oneOf(['16:9', '9:16', '1:1'], 'Shape of the picture'),
      cfg_scale: {
        type: 'number',
        minimum: 0,
        maximum: 1,
        default: 0.5,
        description: 'How closely the output follows the prompt',
      },
    },
    negative_prompt: true,
    reference_image: false,
    reference_required: false,
  },
  {
    // Without `high` quality: it costs several times as much, and a model has one price.
    id: 'openai/gpt-image-2',
    provider: 'openai',
    provider_model: 'gpt-image-2',
    kind: 'image',
    credits: 7,
    max_outputs: 4,
    parameters: {
      size: oneOf(['1024x1024', '1536x1024', '1024x1536'], 'Width and height in pixels'),
      quality: oneOf(['low', 'medium'], 'Higher quality takes longer', 'medium'),
      output_format: oneOf(['png', 'jpeg', 'webp'], 'Format of the image'),
    },
    negative_prompt: false,
    reference_image: false,
    reference_required: false,
  },
]

const freeze = <T>(value: T): T => {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const member of Object.values(value)) freeze(member)
  return Object.freeze(value)
}

/**
 * All models, as data. One credit is about one US cent of the provider's price. The registry is frozen, and an id keeps its
 * meaning across releases.
 */
export const registry: readonly Model[] = freeze(models)
