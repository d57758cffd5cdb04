import type { ElysiaAdapter } from 'elysia'
import { WebStandardAdapter } from 'elysia/adapter/web-standard'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import { readJson } from './body.ts'
import type { RequestContext } from './request-context.ts'

/*
 * All that this service relies on beyond the documented interface of Elysia. test/http/elysia-adapter.test.ts checks each of
 * these reliances, and fails when another version is installed than the one named here.
 *
 * 1. The adapter. A body parser is a string of code that Elysia puts into the compiled handler, where `c` is the context; the
 *    rest of the adapter is a copy of the members of `WebStandardAdapter`.
 * 2. The source of hooks. Elysia reads the source text of hooks and handlers to decide two questions. Is the result awaited?
 *    Yes, where the function is async or its text has `return f(` or `=> f(`. So a `resolve` of the guard ends in
 *    `return resolved(...)`, which is awaited, and the request hook of the application must not have such a return: awaited,
 *    every request would cost one more promise. Which parts of the request are parsed? Those whose names the text mentions:
 *    query, headers, cookie, body, set, server, route, url, path. So no parameter of a hook has one of these names, and no
 *    hook passes its whole context to another function.
 * 3. The type of `resolve`: see `resolved`.
 * 4. HEAD. Elysia runs the GET route, reads the body of its response to the end, and sends the number of bytes as the
 *    Content-Length: see `headResponse`.
 */
export const elysiaVersion = '1.4.30'

const read = () => 'c.body=await readJson(c.request,c.context.deadline)\n'

/**
 * The adapter for any runtime with web standards, except that `readJson` reads every body, of any media type. An
 * `onParse` hook is not used: in front of one Elysia reads `request.body`, which turns the body into a stream and costs more.
 */
export const adapter: ElysiaAdapter = {
  ...WebStandardAdapter,
  composeHandler: {
    ...WebStandardAdapter.composeHandler,
    inject: { readJson },
    parser: { json: read, text: read, urlencoded: read, arrayBuffer: read, formData: read },
  },
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
