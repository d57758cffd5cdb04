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
  /** False: the gate must still confirm the caller, see `Gate`. */
  readonly isConfirmed: boolean
}

/** Decides who may have the input of a request read. One for each route. */
export type Gate = {
  /** Admits the caller, before the input is read and by headers and query alone; throws 401 or 403. */
  admit(request: Request, context: RequestContext, query: unknown): MaybePromise<Entry | undefined>
  /**
   * What remains to be checked, because it needs Postgres or is not worth it for a small body: the guard does it when it has the
   * body, in the statement that prefetches facts about the body's resources. Called here for a request that is refused before,
   * so that its answer is 401 where the caller is not signed in, and before a large body is read.
   */
  confirm(entry: Entry, context: RequestContext): MaybePromise<unknown>
}

export type InputSchemas = { readonly params?: TSchema; readonly query?: TSchema; readonly body?: TSchema }

export type InputOptions = Partial<JsonBody> & {
  /** The code for input that does not match its schema. Default: `request.invalid`. */
  readonly invalidAs?: 'request.malformed'
  /** A fast check that is true for most valid bodies and for no invalid one. Where it is false, the schema decides. */
  readonly accepts?: (body: unknown) => boolean
}

/** The parts of Elysia's context that input is read from. */
type Given = {
  readonly request: Request
  readonly context: RequestContext
  readonly params?: unknown
  readonly query?: unknown
}

/** The members that are added to the context. */
type Read = { readonly entry: Entry | undefined; readonly body?: unknown }

/** Reads the input of one route. `admitBy` sets the gate of a route that needs a caller. */
export type InputReader = {
  read(given: Given): MaybePromise<Read>
  admitBy(gate: Gate): void
}

const createCheck = (
  part: InputProblem['in'],
  schema: TSchema | undefined,
  code: FaultCode,
  accepts?: InputOptions['accepts'],
) => {
  if (schema === undefined) return () => {}
  const compiled: TypeCheck<TSchema> = TypeCompiler.Compile(schema)
  return (value: unknown): void => {
    if (accepts?.(value) === true || compiled.Check(value)) return
    // No JSON text is undefined, so the body is missing.
    if (value === undefined) throw new Fault('request.malformed')
    throw new Fault(code as 'request.invalid', { problems: toInputProblems(part, compiled.Errors(value)) })
  }
}

export const createInputReader = (
  { params, query, body }: InputSchemas,
  {
    maxBytes = bodyLimits.usual,
    acceptsUnstorable = false,
    storesNothing = false,
    invalidAs,
    accepts,
  }: InputOptions = {},
): InputReader => {
  const code = invalidAs ?? 'request.invalid'
  const checkParams = createCheck('params', params, code)
  const checkQuery = createCheck('query', query, code)
  const checkBody = createCheck('body', body, code, accepts)
  const limits: JsonBody = { maxBytes, acceptsUnstorable, storesNothing }
  let gate: Gate | undefined

  const readAfter = (
    entry: Entry | undefined,
    { request, context, params, query }: Given,
    refuse: (error: unknown) => MaybePromise<never>,
  ): MaybePromise<Read> => {
    try {
      checkParams(params)
      checkQuery(query)
    } catch (error) {
      return refuse(error)
    }
    if (body === undefined) return { entry }
    const accept = (value: unknown): Read => {
      checkBody(value)
      return { entry, body: value }
    }
    return readJson(request, context, limits, { accept, refuse })
  }

  /** Whether the body is so large that its caller is confirmed before it is read, or of unknown length. */
  const isLarge = ({ contentLength }: RequestContext) => contentLength === undefined || contentLength > bodyLimits.usual

  const readAdmitted = (entry: Entry | undefined, given: Given): MaybePromise<Read> => {
    if (gate === undefined || entry === undefined || entry.isConfirmed) return readAfter(entry, given, rethrow)
    const { confirm } = gate
    if (maxBytes > bodyLimits.usual && isLarge(given.context)) {
      return mapMaybePromise(confirm(entry, given.context), () => readAfter(entry, given, rethrow))
    }
    return readAfter(entry, given, (error) => mapMaybePromise(confirm(entry, given.context), () => rethrow(error)))
  }

  return {
    read: (given) => {
      const entry = gate?.admit(given.request, given.context, given.query)
      return entry instanceof Promise
        ? entry.then((admitted) => readAdmitted(admitted, given))
        : readAdmitted(entry, given)
    },
    admitBy: (given) => {
      gate = given
    },
  }
}

const rethrow = (error: unknown): never => {
  throw error
}
