import { pathOf } from '../kit/authority.ts'

/** Elysia gives a path that ends with a slash to the route without it. */
const routePathOf = (path: string): string => (path.endsWith('/') && path.length > 1 ? path.slice(0, -1) : path)

/** Finds the route of a request, before or beside Elysia; undefined where no route has its method and path. */
export const createRouteIndex = <R extends { readonly method: string; readonly path: string }>(
  routes: readonly R[],
): ((request: Pick<Request, 'method' | 'url'>) => R | undefined) => {
  const fixed = new Map<string, R>()
  const patterns: { readonly method: string; readonly pattern: RegExp; readonly route: R }[] = []
  for (const route of routes) {
    const { method, path } = route
    if (path.includes(':') || path.includes('*')) {
      const pattern = new RegExp(`^${path.replace(/[.]/g, '\\.').replace(/:\w+/g, '[^/]+').replace(/\*/g, '.*')}$`)
      patterns.push({ method, pattern, route })
    } else fixed.set(`${method} ${routePathOf(path)}`, route)
  }
  return ({ method: given, url }) => {
    const method = given === 'HEAD' ? 'GET' : given
    const path = routePathOf(pathOf(url))
    return (
      fixed.get(`${method} ${path}`) ??
      patterns.find((each) => each.method === method && each.pattern.test(path))?.route
    )
  }
}
