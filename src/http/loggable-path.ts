import { isId } from '../kit/id.ts'

/**
 * Paths as they may be logged: the segments that some route has and ids as they are, a star for every other one. A client that puts
 * a token or a password into a path by mistake so does not put it into the log. Costs a lookup for each segment.
 */
export const createLoggablePath = (routes: () => readonly { readonly path: string }[]): ((path: string) => string) => {
  let known: ReadonlySet<string> | undefined
  return (path) => {
    known ??= new Set(routes().flatMap((route) => route.path.split('/').filter((part) => !/[:*]/.test(part))))
    const segments = known
    return path
      .split('/')
      .map((part) => (segments.has(part) || isId(part) ? part : '*'))
      .join('/')
  }
}
