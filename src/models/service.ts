import { Buffer } from 'node:buffer'
import { Fault, type InputProblem, invalidInput } from '../fault.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import type { Offer } from './model.ts'
import { type Model, type Parameter, type ParameterValue, type ProviderName, registry } from './registry.ts'

/** What somebody asks a model for, as it came in. */
export type OrderInput = {
  readonly model: string
  readonly outputs?: number | undefined
  readonly parameters?: Readonly<Record<string, unknown>> | undefined
  readonly negative_prompt?: string | undefined
  readonly reference_media_id?: string | undefined
}

/** What can be accepted: nothing in it is unknown or out of range, and this is what it costs. */
export type Order = {
  readonly model: Model
  readonly outputs: number
  /** Complete but for those that have no default and were not given, such as a seed. */
  readonly parameters: Readonly<Record<string, ParameterValue>>
  /** In credits, of all outputs together. */
  readonly price: number
}

export type Offered = Model & { readonly available: boolean }

const maxProblems = 20

const byId = new Map(registry.map((model) => [model.id, model]))

const wrong = (pointer: string, detail: string): InputProblem => ({ in: 'body', pointer, detail })

/** RFC 6901. */
const pointerTo = (name: string) => `/parameters/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`

const isOfType = (type: Parameter['type'], value: unknown): value is ParameterValue => {
  if (type === 'integer') return Number.isSafeInteger(value)
  if (type === 'number') return Number.isFinite(value)
  return typeof value === type
}

/** What is wrong with a value, or undefined. Says what would be right, and nothing of what came. */
const findFlaw = ({ type, values, minimum, maximum }: Parameter, value: unknown): string | undefined => {
  if (!isOfType(type, value)) return `Expected ${type === 'integer' ? 'an' : 'a'} ${type}`
  if (values !== undefined && !values.includes(value)) return `Expected one of ${values.join(', ')}`
  if (typeof value !== 'number') return undefined
  if (minimum !== undefined && value < minimum) return `Expected ${minimum} or more`
  if (maximum !== undefined && value > maximum) return `Expected ${maximum} or less`
  return undefined
}

/** The first of them: an order with a hundred thousand flaws is not worth finding them all. */
const flawsOfParameters = (model: Model, given: Readonly<Record<string, unknown>>): Iterable<InputProblem> =>
  Iterator.from(Object.entries(given))
    .flatMap(([name, value]) => {
      const parameter = Object.hasOwn(model.parameters, name) ? model.parameters[name] : undefined
      const flaw = parameter === undefined ? 'This model has no such parameter' : findFlaw(parameter, value)
      return flaw === undefined ? [] : [wrong(pointerTo(name), flaw)]
    })
    .take(maxProblems)

const flawsOf = (model: Model, { outputs = 1, parameters = {}, ...extras }: OrderInput): InputProblem[] => [
  ...(Number.isInteger(outputs) && outputs >= 1 && outputs <= model.max_outputs
    ? []
    : [wrong('/outputs', `Expected a whole number from 1 to ${model.max_outputs}`)]),
  ...(extras.negative_prompt === undefined || model.negative_prompt
    ? []
    : [wrong('/negative_prompt', 'This model takes none')]),
  ...(extras.reference_media_id === undefined || model.reference_image
    ? []
    : [wrong('/reference_media_id', 'This model takes none')]),
  ...(extras.reference_media_id === undefined && model.reference_required
    ? [wrong('/reference_media_id', 'This model needs one')]
    : []),
  ...flawsOfParameters(model, parameters),
]

const complete = (model: Model, given: Readonly<Record<string, unknown>>): Record<string, ParameterValue> =>
  Object.fromEntries(
    Object.entries(model.parameters).flatMap(([name, parameter]) => {
      const value = Object.hasOwn(given, name) ? given[name] : parameter.default
      return value === undefined ? [] : [[name, value as ParameterValue]]
    }),
  )

const cursorOf = ({ id }: Model) => encodeBase64url(Buffer.from(id))

/** As one offers it to a client. */
export const toOffer = (model: Offered): Offer => ({
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
 * The models of the registry as this deployment has them. Pure: nothing here waits.
 *
 * Promise: an order is what was asked for, whole, or a fault that names every place that is not; nothing is dropped,
 * clamped or converted, and the price is the model's times the outputs.
 */
export const createModels = ({ providers }: { providers: ReadonlySet<ProviderName> }) => {
  const isAvailable = ({ provider }: Model): boolean => providers.has(provider)
  const offered = (model: Model): Offered => Object.freeze({ ...model, available: isAvailable(model) })
  const offers = registry.map(offered)

  return {
    /** All of them, always in the same order. */
    list: (): readonly Offered[] => offers,

    /** A part of the list. A cursor that is not one of its own is a 422. */
    page: ({ limit, cursor }: { limit: number; cursor: string | undefined }) => {
      const before = cursor === undefined ? -1 : offers.findIndex((model) => cursorOf(model) === cursor)
      if (cursor !== undefined && before === -1) {
        throw invalidInput('query', '/cursor', 'Not a cursor of this service')
      }
      const items = offers.slice(before + 1, before + 1 + limit)
      const last = items.at(-1)
      const next_cursor = last !== undefined && last !== offers.at(-1) ? cursorOf(last) : null
      return { items: items.map(toOffer), next_cursor }
    },

    find: (id: string): Offered | undefined => offers.find((model) => model.id === id),

    /**
     * Throws `request.invalid` for what the model does not take, `model.unavailable` where nobody runs it here.
     */
    order: (input: OrderInput): Order => {
      const model = byId.get(input.model)
      if (model === undefined) throw invalidInput('body', '/model', 'There is no such model')
      if (!isAvailable(model)) throw new Fault('model.unavailable')
      const problems = flawsOf(model, input)
      if (problems.length > 0) throw new Fault('request.invalid', { problems: problems.slice(0, maxProblems) })
      const { outputs = 1, parameters = {} } = input
      return { model, outputs, parameters: complete(model, parameters), price: model.credits * outputs }
    },
  }
}

export type Models = ReturnType<typeof createModels>
