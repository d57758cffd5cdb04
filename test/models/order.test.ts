import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { Fault } from '../../src/fault.ts'
import { type Model, type Parameter, providerNames, registry } from '../../src/models/registry.ts'
import { createModels, type OrderInput } from '../../src/models/service.ts'

const models = createModels({ providers: new Set(providerNames) })
const everyModel = fc.constantFrom(...registry)

/** Values that a parameter accepts. */
const acceptedBy = ({ type, values, minimum, maximum }: Parameter): fc.Arbitrary<unknown> => {
  if (values !== undefined) return fc.constantFrom(...values)
  if (type === 'boolean') return fc.boolean()
  if (type === 'string') return fc.string()
  const bounds = { ...(minimum !== undefined && { min: minimum }), ...(maximum !== undefined && { max: maximum }) }
  const edges = fc.constantFrom(minimum ?? 0, maximum ?? 0)
  return fc.oneof(edges, type === 'integer' ? fc.integer(bounds) : fc.double({ ...bounds, noNaN: true }))
}

/** Values that it refuses: of another type, not in its list, or just outside its bounds. */
const refusedBy = ({ type, values, minimum = 0, maximum = 0 }: Parameter): fc.Arbitrary<unknown> => {
  const others = [null, [], {}, '', ' ', '1', [1], { value: 1 }].filter((value) => typeof value !== type)
  const outside = [minimum - 1, maximum + 1, minimum - Number.EPSILON * 4 * Math.max(1, minimum), 1e300, -1e300]
  const notFinite = [Number.NaN, Number.POSITIVE_INFINITY]
  if (values !== undefined) return fc.constantFrom(...others, ...values.map((value) => `${value} `), 'PNG', 0, true)
  if (type === 'integer') return fc.constantFrom(...others, ...outside, ...notFinite, minimum + 0.5, 2 ** 53, true)
  if (type === 'number') return fc.constantFrom(...others, ...outside, ...notFinite, true)
  return fc.constantFrom(...others, 0)
}

/** A subset of the parameters of a model, each with a value of `arbitraryFor`. */
const someParameters = (model: Model, arbitraryFor: (parameter: Parameter) => fc.Arbitrary<unknown>) =>
  fc.record(Object.fromEntries(Object.entries(model.parameters).map(([name, each]) => [name, arbitraryFor(each)])), {
    requiredKeys: [],
  })

const validOrder = everyModel.chain((model) =>
  fc.record(
    {
      model: fc.constant(model.id),
      outputs: fc.integer({ min: 1, max: model.max_outputs }),
      parameters: someParameters(model, acceptedBy),
      ...(model.negative_prompt && { negative_prompt: fc.string() }),
      ...(model.reference_image && { reference_media_id: fc.uuid() }),
    },
    { requiredKeys: ['model', ...(model.reference_required ? ['reference_media_id' as const] : [])] },
  ),
) as fc.Arbitrary<OrderInput>

const problemsOf = (input: OrderInput): string[] => {
  try {
    models.order(input)
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'request.invalid') throw error
    for (const problem of error.problems ?? []) expect(problem.in).toBe('body')
    return (error.problems ?? []).map(({ pointer }: { pointer: string }) => pointer)
  }
  return []
}

describe('the model registry', () => {
  test('has unique ids that are valid in a path, and is frozen', () => {
    expect(new Set(registry.map(({ id }) => id)).size).toBe(registry.length)
    for (const { id } of registry) expect(id).toMatch(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$/)
    const isDeeplyFrozen = (value: unknown): boolean =>
      typeof value !== 'object' ||
      value === null ||
      (Object.isFrozen(value) && Object.values(value).every(isDeeplyFrozen))
    expect(isDeeplyFrozen(registry)).toBe(true)
    expect(new Set(registry.map(({ kind }) => kind))).toEqual(new Set(['image', 'video']))
  })

  test('has consistent bounds, lists and defaults for every model', () => {
    for (const { id, credits, max_outputs, parameters, reference_image, reference_required } of registry) {
      expect([id, reference_image || !reference_required]).toEqual([id, true])
      const reference = reference_required && { reference_media_id: '00000000-0000-7000-8000-000000000000' }
      expect([id, Number.isInteger(credits) && credits >= 1, max_outputs >= 1]).toEqual([id, true, true])
      for (const [name, { type, minimum, maximum, values, default: fallback }] of Object.entries(parameters)) {
        const isNumeric = type === 'integer' || type === 'number'
        expect([name, minimum === undefined && maximum === undefined]).toEqual([
          name,
          !isNumeric || values !== undefined,
        ])
        if (minimum !== undefined && maximum !== undefined) expect(minimum).toBeLessThan(maximum)
        if (fallback !== undefined)
          expect(problemsOf({ model: id, parameters: { [name]: fallback }, ...reference })).toEqual([])
      }
    }
  })

  test('has a local model that needs no provider key', () => {
    const local = models.order({ model: 'local/procedural' })
    expect(local).toEqual({
      model: registry.find(({ id }) => id === 'local/procedural') as Model,
      outputs: 1,
      parameters: { width: 512, height: 512, format: 'webp' },
      price: 1,
      maxBytes: 26_214_400,
    })
    expect(models.order({ model: 'local/procedural', outputs: 4, parameters: { seed: 2 ** 32 - 1 } })).toMatchObject({
      parameters: { seed: 4_294_967_295 },
      price: 4,
    })
  })
})

describe('an order', () => {
  test('with accepted values keeps them all, and costs the price of one output times the outputs', () => {
    fc.assert(
      fc.property(validOrder, (input) => {
        const { model, outputs, parameters, price } = models.order(input)
        expect(model.id).toBe(input.model)
        expect(outputs).toBe(input.outputs ?? 1)
        expect(price).toBe(model.credits * outputs)
        for (const [name, value] of Object.entries(input.parameters ?? {}))
          expect(parameters[name]).toBe(value as never)
        for (const [name, { default: fallback }] of Object.entries(model.parameters)) {
          if (!Object.hasOwn(input.parameters ?? {}, name)) expect(parameters[name]).toBe(fallback as never)
        }
        expect(Object.keys(model.parameters)).toEqual(expect.arrayContaining(Object.keys(parameters)))
      }),
      { numRuns: 500 },
    )
  })

  test('with refused values is refused, with exactly their places', () => {
    const invalidOrder = fc.tuple(validOrder, everyModel).chain(([valid]) => {
      const model = registry.find(({ id }) => id === valid.model) as Model
      return fc.record({
        valid: fc.constant(valid),
        model: fc.constant(model),
        parameters: someParameters(model, refusedBy),
        outputs: fc.option(fc.constantFrom(0, -1, model.max_outputs + 1, 1.5, Number.NaN, '1', null)),
        negative_prompt: model.negative_prompt ? fc.constant(null) : fc.option(fc.constantFrom('', 'fog')),
        // A reference for a model without references, or none for a model that requires one.
        reference: model.reference_image
          ? fc.constantFrom(null, ...(model.reference_required ? [undefined] : []))
          : fc.option(fc.uuid()),
      })
    })
    let refused = 0
    fc.assert(
      fc.property(invalidOrder, ({ valid, parameters, outputs, negative_prompt, reference }) => {
        const input = {
          ...valid,
          parameters: { ...valid.parameters, ...parameters },
          ...(outputs !== null && { outputs }),
          ...(negative_prompt !== null && { negative_prompt }),
          ...(reference !== null && { reference_media_id: reference }),
        } as OrderInput
        const expected = [
          ...(outputs === null ? [] : ['/outputs']),
          ...(negative_prompt === null ? [] : ['/negative_prompt']),
          ...(reference === null ? [] : ['/reference_media_id']),
          ...Object.keys(parameters).map((name) => `/parameters/${name}`),
        ]
        expect(problemsOf(input).sort()).toEqual(expected.sort())
        refused += expected.length > 0 ? 1 : 0
      }),
      { numRuns: 500 },
    )
    expect(refused).toBeGreaterThan(100)
  })

  test('with an unknown parameter of any name is refused, and the parameter is not dropped', () => {
    const names = fc.oneof(
      fc.string({ minLength: 1 }),
      fc.constantFrom('__proto__', 'constructor', 'toString', 'Width', 'width ', 'a/b', 'a~b', '~1', 'prompt', 'n'),
    )
    fc.assert(
      fc.property(everyModel, names, fc.jsonValue(), (model, name, value) => {
        fc.pre(!Object.hasOwn(model.parameters, name))
        const parameters = JSON.parse(`{${JSON.stringify(name)}:${JSON.stringify(value)}}`)
        const escaped = name.replaceAll('~', '~0').replaceAll('/', '~1')
        const reference = model.reference_required && { reference_media_id: '00000000-0000-7000-8000-000000000000' }
        expect(problemsOf({ model: model.id, parameters, ...reference })).toEqual([`/parameters/${escaped}`])
      }),
    )
  })

  test('of an unknown model is invalid, and of a model without a provider unavailable', () => {
    for (const model of ['', 'local', 'local/procedural/', 'LOCAL/procedural', '__proto__', 'constructor', 'm']) {
      expect([model, problemsOf({ model, outputs: 99 })]).toEqual([model, ['/model']])
    }
    const localOnly = createModels({ providers: new Set(['local']) })
    expect(localOnly.order({ model: 'local/procedural' }).price).toBe(1)
    expect(localOnly.list().map(({ id, available }) => [id, available])).toEqual(
      registry.map(({ id, provider }) => [id, provider === 'local']),
    )
    expect(() => localOnly.order({ model: 'fal-ai/flux/dev' })).toThrow(
      expect.objectContaining({ code: 'model.unavailable', status: 409 }) as never,
    )
  })

  test('with 100,000 problems lists the first 20, and repeats no refused value', () => {
    const parameters = Object.fromEntries(Array.from({ length: 100_000 }, (_, index) => [`p${index}`, 'hunter2']))
    expect(problemsOf({ model: 'local/procedural', parameters })).toHaveLength(20)
    try {
      models.order({ model: 'local/procedural', parameters: { format: 'hunter2', width: 'hunter2' } })
    } catch (error) {
      const { problems = [] } = error as Fault
      expect(JSON.stringify(problems)).not.toContain('hunter2')
      expect(problems.map(({ detail }) => detail)).toEqual([
        'must be one of webp, png',
        'must be a whole number from 64 to 2048',
      ])
    }
  })
})
