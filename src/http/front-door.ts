import { pathAndQueryOf } from '../kit/authority.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { DirectContext, DirectRoute } from './elysia-adapter.ts'
import type { RequestContext } from './request-context.ts'

/** `arrivedMs`: when the request came, where it had to wait before. */
type Fetch = (request: Request, arrivedMs?: number) => MaybePromise<Response>

/** What the application does with every request, by whichever way it comes. */
export type Steps = {
  /** The context of a request, which has this `Authorization`. `route` is its path, where that is known. */
  begin(
    request: Request,
    authorization: string | null,
    route: string | undefined,
    arrivedMs: number | undefined,
  ): RequestContext
  /** Refuses a request before its route is known to be right: for its Host, its length, or because the server stops. */
  admit(request: Request, context: RequestContext): void
  /** The response with what a handler returned. */
  answer(returned: unknown, given: Pick<DirectContext, 'request' | 'context' | 'set'>): Response
  /** The problem with which a request is refused. `code` is a word of Elysia's. */
  refuse(code: string | number, error: unknown, given: Pick<DirectContext, 'request' | 'context'>): Response
}

const usual = 'UNKNOWN'

/** Runs a route from one of its hooks on: at once, as far as nothing has to be waited for. */
const createRun = ({ answer, refuse }: Steps) => {
  const run = (route: DirectRoute, from: number, given: DirectContext): MaybePromise<Response> => {
    try {
      for (let at = from; at < route.hooks.length; at += 1) {
        const hook = route.hooks[at] as DirectRoute['hooks'][number]
        const added = hook.run(given)
        if (added instanceof Promise) {
          return added.then(
            (members) => {
              hook.add(given, members)
              return run(route, at + 1, given)
            },
            (error) => refuse(usual, error, given),
          )
        }
        hook.add(given, added)
      }
      const returned = route.handle(given)
      if (!(returned instanceof Promise)) return answer(returned, given)
      return returned.then((value) => answer(value, given)).catch((error) => refuse(usual, error, given))
    } catch (error) {
      return refuse(usual, error, given)
    }
  }
  return run
}

/**
 * Serves the routes that are asked most without Elysia's router and pipeline: by their own hooks and handlers, with the same
 * steps before and after them.
 *
 * Guarantee: a request is answered alike both ways. One that is unusual takes the general way: another method, a query, or no
 * credential, and so none that counts by address. Cost: a look-up more for every other request.
 */
export const createFrontDoor = ({
  routes,
  steps,
  general,
}: {
  /** By method and path, such as `POST /path`. */
  routes: ReadonlyMap<string, DirectRoute>
  steps: Steps
  general: Fetch
}): Fetch => {
  const run = createRun(steps)
  const byPath = new Map(
    [...routes].map(([name, route]) => {
      const [method = '', path = ''] = name.split(' ')
      return [path, { method, path, route }]
    }),
  )
  return (request, arrivedMs) => {
    const found = byPath.get(pathAndQueryOf(request.url))
    if (found === undefined || request.method !== found.method) return general(request, arrivedMs)
    const authorization = request.headers.get('authorization')
    if (authorization === null) return general(request, arrivedMs)
    const context = steps.begin(request, authorization, found.path, arrivedMs)
    const given: DirectContext = { request, context, set: { headers: {} }, entry: undefined, body: undefined }
    try {
      steps.admit(request, context)
    } catch (error) {
      return steps.refuse(usual, error, given)
    }
    return run(found.route, 0, given)
  }
}
