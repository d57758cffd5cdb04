import type { TSchema } from '@sinclair/typebox'
import { type TypeCheck, TypeCompiler } from '@sinclair/typebox/compiler'
import { Fault, type FaultCode, type InputProblem } from '../fault.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import { bodyLimits, type JsonBody, readJson } from './body.ts'
import { toInputProblems } from './input-errors.ts'
import type { RequestContext } from './request-context.ts'

/*
 * The input of a route, in this order: the caller is admitted, the parameters are checked, the body is read by the limit of the
 * route and checked. Elysia would read the body first, and would turn a value it refuses into a text.
 */

/** A caller who may have the input of the request read. */
export type Entry = {
  /**
   * What remains to be checked because it needs Postgres. The guard does it when it has the body, in the statement that
   * prefetches facts about the body's resources. A request that is refused before is checked first, so that its answer is 401
   * where the caller is not signed in. Undefined: nothing.
   */
  readonly confirm: (() => MaybePromise<unknown>) | undefined
}

/** Admits the caller of a request, before its input is read and by its headers and query alone; throws 401 or 403. */
export type Gate = (request: Request, context: RequestContext, query: unknown) => MaybePromise<Entry | undefined>

export type InputSchemas = { readonly params?: TSchema; readonly query?: TSchema; readonly body?: TSchema }

export type InputOptions = Partial<JsonBody> & {
  /** The code for input that does not match its schema. Default: `request.invalid`. */
  readonly invalidAs?: 'request.malformed'
}

/** The parts of Elysia's context that input is read from. */
type Given = {
  readonly request: Request
  readonly context: RequestContext
  readonly params?: unknown
  readonly query?: unknown
}

/** What is added to the context. */
type Read = { readonly entry: Entry | undefined; readonly body?: unknown }

/** Reads the input of one route. `admitBy` sets the gate of a route that needs a caller. */
export type InputReader = {
  read(given: Given): MaybePromise<Read>
  admitBy(gate: Gate): void
}

const createCheck = (part: InputProblem['in'], schema: TSchema | undefined, code: FaultCode) => {
  if (schema === undefined) return () => {}
  const compiled: TypeCheck<TSchema> = TypeCompiler.Compile(schema)
  return (value: unknown): void => {
    if (compiled.Check(value)) return
    // No JSON text is undefined, so the body is missing.
    if (value === undefined) throw new Fault('request.malformed')
    throw new Fault(code as 'request.invalid', { problems: toInputProblems(part, compiled.Errors(value)) })
  }
}

export const createInputReader = (
  { params, query, body }: InputSchemas,
  { maxBytes = bodyLimits.usual, acceptsUnstorable = false, invalidAs }: InputOptions = {},
): InputReader => {
  const code = invalidAs ?? 'request.invalid'
  const checkParams = createCheck('params', params, code)
  const checkQuery = createCheck('query', query, code)
  const checkBody = createCheck('body', body, code)
  const limits: JsonBody = { maxBytes, acceptsUnstorable }
  let gate: Gate | undefined

  const readAfter = (entry: Entry | undefined, { request, context, params, query }: Given): MaybePromise<Read> => {
    checkParams(params)
    checkQuery(query)
    if (body === undefined) return { entry }
    return readJson(request, context.deadline, limits, (value) => {
      checkBody(value)
      return { entry, body: value }
    })
  }

  /** Whether the body is so large that its caller is confirmed before it is read, or of unknown length. */
  const isLarge = ({ headers }: Request) => !(Number(headers.get('content-length') ?? Number.NaN) <= bodyLimits.usual)

  const readConfirming = async (entry: Entry, confirm: () => MaybePromise<unknown>, given: Given): Promise<Read> => {
    let isConfirmed = false
    if (maxBytes > bodyLimits.usual && isLarge(given.request)) {
      await confirm()
      isConfirmed = true
    }
    try {
      return await readAfter(entry, given)
    } catch (error) {
      if (!isConfirmed) await confirm()
      throw error
    }
  }

  return {
    read: (given) =>
      mapMaybePromise(gate?.(given.request, given.context, given.query), (entry) =>
        entry?.confirm === undefined ? readAfter(entry, given) : readConfirming(entry, entry.confirm, given),
      ),
    admitBy: (given) => {
      gate = given
    },
  }
}
