import { Buffer } from 'node:buffer'
import { Fault, type InputProblem, invalidInput } from '../fault.ts'
import { describeInputError } from '../http/input-errors.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import { imageLimits } from '../media/formats/image-format.ts'
import { videoLimits } from '../media/formats/video-format.ts'
import type { Offer } from './model.ts'
import { type Kind, type Model, type Parameter, type ParameterValue, type ProviderName, registry } from './registry.ts'

/** An order before validation. */
export type OrderInput = {
  readonly model: string
  readonly outputs?: number | undefined
  readonly parameters?: Readonly<Record<string, unknown>> | undefined
  readonly negative_prompt?: string | undefined
  readonly reference_media_id?: string | undefined
}

/** A valid order with its price. */
export type Order = {
  readonly model: Model
  readonly outputs: number
  /** With defaults. A parameter without a default that was not given, such as a seed, is absent. */
  readonly parameters: Readonly<Record<string, ParameterValue>>
  /** Credits for all outputs together. */
  readonly price: number
  /** The most that all outputs together may take. */
  readonly maxBytes: number
}

export type AvailableModel = Model & { readonly available: boolean }

const maxProblems = 20

/** Larger outputs are refused. */
const maxOutputBytes: Readonly<Record<Kind, number>> = { image: imageLimits.bytes, video: videoLimits.bytes }

const byId = new Map(registry.map((model) => [model.id, model]))

const bodyProblem = (pointer: string, detail: string): InputProblem => ({ in: 'body', pointer, detail })

/** JSON pointer (RFC 6901). */
const pointerTo = (name: string) => `/parameters/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`

const isOfType = (type: Parameter['type'], value: unknown): value is ParameterValue => {
  if (type === 'integer') return Number.isSafeInteger(value)
  if (type === 'number') return Number.isFinite(value)
  return typeof value === type
}

/** Describes the accepted values and never repeats the value itself. Undefined: the value is accepted. */
const findProblem = ({ type, values, minimum, maximum }: Parameter, value: unknown): string | undefined => {
  const isAccepted =
    isOfType(type, value) &&
    (values === undefined || values.includes(value)) &&
    (typeof value !== 'number' || (value >= (minimum ?? -Infinity) && value <= (maximum ?? Infinity)))
  if (isAccepted) return undefined
  return describeInputError({ schema: { type, enum: values, minimum, maximum } })
}

/** Lazy and limited, so that an order with 100,000 wrong parameters stays cheap to refuse. */
const parameterProblems = (model: Model, given: Readonly<Record<string, unknown>>): Iterable<InputProblem> =>
  Iterator.from(Object.entries(given))
    .flatMap(([name, value]) => {
      const parameter = Object.hasOwn(model.parameters, name) ? model.parameters[name] : undefined
      const detail = parameter === undefined ? 'is not a parameter of this model' : findProblem(parameter, value)
      return detail === undefined ? [] : [bodyProblem(pointerTo(name), detail)]
    })
    .take(maxProblems)

const orderProblems = (model: Model, { outputs = 1, parameters = {}, ...extras }: OrderInput): InputProblem[] => [
  ...(Number.isInteger(outputs) && outputs >= 1 && outputs <= model.max_outputs
    ? []
    : [bodyProblem('/outputs', `must be a whole number from 1 to ${model.max_outputs}`)]),
  ...(extras.negative_prompt === undefined || model.negative_prompt
    ? []
    : [bodyProblem('/negative_prompt', 'is not accepted by this model')]),
  ...(extras.reference_media_id === undefined || model.reference_image
    ? []
    : [bodyProblem('/reference_media_id', 'is not accepted by this model')]),
  ...(extras.reference_media_id === undefined && model.reference_required
    ? [bodyProblem('/reference_media_id', 'is required by this model')]
    : []),
  ...parameterProblems(model, parameters),
]

const withDefaults = (model: Model, given: Readonly<Record<string, unknown>>): Record<string, ParameterValue> =>
  Object.fromEntries(
    Object.entries(model.parameters).flatMap(([name, parameter]) => {
      const value = Object.hasOwn(given, name) ? given[name] : parameter.default
      return value === undefined ? [] : [[name, value as ParameterValue]]
    }),
  )

const cursorOf = ({ id }: Model) => encodeBase64url(Buffer.from(id))

/** A model as the API shows it. */
export const toOffer = (model: AvailableModel): Offer => ({
  id: model.id,
  provider: model.provider,
  kind: model.kind,
  available: model.available,
  credits: model.credits,
  max_outputs: model.max_outputs,
  example: { outputs: model.max_outputs, price: model.credits * model.max_outputs },
  parameters: model.parameters as Offer['parameters'],
  negative_prompt: model.negative_prompt,
  reference_image: model.reference_image,
  reference_required: model.reference_required,
})

/**
 * The models of the registry, and which of them this deployment can run. Pure and synchronous.
 *
 * Guarantee: an order is accepted exactly as given or refused with a fault that lists its problems, at most 20. No value is
 * dropped, clamped or converted. The price is that of one output times the number of outputs.
 */
export const createModels = ({ providers }: { providers: ReadonlySet<ProviderName> }) => {
  const isAvailable = ({ provider }: Model): boolean => providers.has(provider)
  const withAvailability = (model: Model): AvailableModel => Object.freeze({ ...model, available: isAvailable(model) })
  const available = registry.map(withAvailability)

  return {
    /** All models, always in the same order. */
    list: (): readonly AvailableModel[] => available,

    /** One page of the list. Throws `request.invalid` for a cursor that this list did not issue. */
    page: ({ limit, cursor }: { limit: number; cursor: string | undefined }) => {
      const before = cursor === undefined ? -1 : available.findIndex((model) => cursorOf(model) === cursor)
      if (cursor !== undefined && before === -1) {
        throw invalidInput('query', '/cursor', 'must be the `next_cursor` of the previous page')
      }
      const items = available.slice(before + 1, before + 1 + limit)
      const last = items.at(-1)
      const next_cursor = last !== undefined && last !== available.at(-1) ? cursorOf(last) : null
      return { items: items.map(toOffer), next_cursor }
    },

    find: (id: string): AvailableModel | undefined => available.find((model) => model.id === id),

    /**
     * Throws `request.invalid` for input that the model does not accept, and `model.unavailable` when this deployment has no
     * provider for the model.
     */
    order: (input: OrderInput): Order => {
      const model = byId.get(input.model)
      if (model === undefined) throw invalidInput('body', '/model', 'must be the id of a model; see `GET /models`')
      if (!isAvailable(model)) throw new Fault('model.unavailable')
      const problems = orderProblems(model, input)
      if (problems.length > 0) throw new Fault('request.invalid', { problems: problems.slice(0, maxProblems) })
      const { outputs = 1, parameters = {} } = input
      return {
        model,
        outputs,
        parameters: withDefaults(model, parameters),
        price: model.credits * outputs,
        maxBytes: maxOutputBytes[model.kind] * outputs,
      }
    },
  }
}

export type Models = ReturnType<typeof createModels>
