import type { ElysiaAdapter } from 'elysia'
import { WebStandardAdapter } from 'elysia/adapter/web-standard'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { Gate, InputReader } from './input.ts'
import type { RequestContext } from './request-context.ts'

/*
 * All that this service relies on beyond the documented interface of Elysia. test/http/elysia-adapter.test.ts checks each of
 * these reliances, and fails when another version is installed than the one named here.
 *
 * 1. Input. A `transform` hook runs before anything is validated, and the members of its result are added to the context. So it
 *    reads the whole input (input.ts), and Elysia is given no schema and reads no body: see `inputHook`. `introspect` of a macro
 *    gets the options of the route: see `admitBy`.
 * 2. The source of hooks. Elysia reads the source text of hooks and handlers to decide two questions. Is the result awaited?
 *    Yes, where the function is async or its text has `return f(` or `=> f(`. So a `resolve` of the guard ends in
 *    `return resolved(...)`, which is awaited, and the request hook of the application must not have such a return: awaited,
 *    every request would cost one more promise. Which parts of the request are parsed? Those whose names the text mentions:
 *    query, headers, cookie, body, set, server, route, url, path. So no parameter of a hook has one of these names, and no
 *    hook passes its whole context to another function.
 * 3. The type of `resolve`: see `resolved`.
 * 4. HEAD. Elysia runs the GET route, reads the body of its response to the end, and sends the number of bytes as the
 *    Content-Length: see `headResponse`.
 * 5. The parts of a route: the hooks and the handler that Elysia would run, in which order: see `directRoutes`.
 */
export const elysiaVersion = '1.4.30'

/** The adapter for any runtime with web standards: by default Elysia takes one for the runtime it finds. */
export const adapter: ElysiaAdapter = WebStandardAdapter

type TransformContext = {
  readonly request: Request
  readonly context: RequestContext
  readonly params: unknown
  readonly query: unknown
}

/** The members of the result are added to the context, while the type of `transform` says that it returns nothing. */
const added = (read: MaybePromise<unknown>) => read as MaybePromise<void>

/**
 * The options of a route by which `reader` reads its input. The query is named only where it is read: named, it is parsed.
 */
export const inputHook = (reader: InputReader, readsQuery: boolean) => {
  const transform = readsQuery
    ? ({ request, context, params, query }: TransformContext) => added(reader.read({ request, context, params, query }))
    : ({ request, context, params }: TransformContext) => added(reader.read({ request, context, params }))
  return { parse: 'none' as const, transform: Object.assign(transform, { reader }) }
}

/** For `introspect`: the input of the route is read only for callers whom `gate` admits. Does nothing for a route without input. */
export const admitBy =
  (gate: Gate) =>
  (hook: unknown): void => {
    const { transform } = hook as { transform?: { reader?: InputReader } }
    transform?.reader?.admitBy(gate)
  }

/** For `decorate`: declares the `context` of every handler. The request hook of the application sets it. */
export const contextSlot: { context: RequestContext } = { context: undefined as never }

/**
 * What a `resolve` adds to the context. Elysia awaits it, promise or not, while the type of `resolve` accepts promises only:
 * a request whose facts are all in memory then needs no promise.
 */
export const resolved = <C extends object>(context: MaybePromise<C>) => context as Promise<C>

/** A response to HEAD whose Content-Length is `length`: its body reports that many bytes and has none. */
export const headResponse = (response: Response, length: number): Response => {
  let isRead = false
  const read = async () => {
    if (isRead) return { done: true }
    isRead = true
    return { done: false, value: { byteLength: length } }
  }
  return Object.defineProperty(response, 'body', { value: { getReader: () => ({ read }) } })
}

/** What a handler gets here of Elysia's context. */
export type DirectContext = {
  readonly request: Request
  readonly context: RequestContext
  readonly set: { status?: unknown; readonly headers: Record<string, string> }
  /** What the reader of the input adds; declared, because adding members later is slow. */
  entry: unknown
  body: unknown
}

type Members = object | undefined
type DirectHook = {
  readonly run: (given: DirectContext) => MaybePromise<Members>
  /** Adds the members of the result to the context. */
  readonly add: (given: DirectContext, members: Members) => void
}

/** What a route consists of: hooks, the members of whose results are added to the context, and the handler. */
export type DirectRoute = {
  readonly hooks: readonly DirectHook[]
  readonly handle: (given: DirectContext) => MaybePromise<unknown>
}

type Hook = { readonly fn: unknown; readonly subType?: string }
type Route = {
  readonly method: string
  readonly path: string
  readonly handler: unknown
  readonly hooks: { readonly transform?: readonly Hook[]; readonly beforeHandle?: readonly Hook[] }
}

const addAll: DirectHook['add'] = (given, members) => {
  if (members !== undefined) Object.assign(given, members)
}
const addInput = (given: DirectContext, { entry, body }: Awaited<ReturnType<InputReader['read']>>): void => {
  given.entry = entry
  given.body = body
}
const toDirectHook = ({ fn }: Hook): DirectHook => {
  const { reader } = fn as { reader?: InputReader }
  if (reader === undefined) return { run: fn as DirectHook['run'], add: addAll }
  return { run: reader.read, add: addInput as DirectHook['add'] }
}

/**
 * The parts of the named routes (`POST /path`), hooks in the order in which Elysia runs them. Throws for a route that does not
 * exist or has hooks of other kinds.
 */
export const directRoutes = (routes: readonly unknown[], names: readonly string[]): ReadonlyMap<string, DirectRoute> =>
  new Map(
    names.map((name) => {
      const route = (routes as readonly Route[]).find(({ method, path }) => `${method} ${path}` === name)
      const { transform = [], beforeHandle = [] } = route?.hooks ?? {}
      if (route === undefined || beforeHandle.some(({ subType }) => subType !== 'resolve'))
        throw new Error(`There is no route ${name} of which this is all`)
      const hooks = [...transform, ...beforeHandle].map(toDirectHook)
      return [name, { hooks, handle: route.handler as DirectRoute['handle'] }]
    }),
  )
