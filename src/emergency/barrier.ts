import type { Access } from '../access/access.ts'
import type { Sender } from '../access/guard/barrier.ts'
import type { Mode } from '../access/policy/modes.ts'
import type { OwnMode, Restrictions } from '../access/policy/restrictions.ts'
import { Fault } from '../fault.ts'
import type { ClientAddresses } from '../http/client-addresses.ts'
import type { securitySchemes } from '../http/contract.ts'
import type { RequestContext } from '../http/request-context.ts'
import { createRouteIndex } from '../http/route-index.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createNetworkSet, type NetworkSet } from '../kit/network-set.ts'
import { passes, type RouteClass, refusals, routeClasses } from './route-classes.ts'

const retrySoon = Object.freeze({ 'retry-after': '1' })

type Fetch = (request: Request) => Response | Promise<Response>
type Route = {
  readonly method: string
  readonly path: string
  readonly hooks: { readonly detail?: { readonly hide?: boolean; readonly security?: readonly object[] } }
}
/**
 * `isGuarded`: the guard authenticates every request to it, except one with a credential of the query, such as a signed link, where
 * the route takes any (`takesLinks`).
 */
type KnownRoute = { readonly routeClass: RouteClass; readonly isGuarded: boolean; readonly takesLinks: boolean }

/** The credentials that the guard reads, by their names in the OpenAPI document. */
const guardCredentials: ReadonlySet<string> = new Set<keyof typeof securitySchemes>(['bearer', 'cookie', 'service_key'])

/** How the restrictions take a route. */
const toKnownRoute = ({ method, path, hooks }: Route): KnownRoute & Pick<Route, 'method' | 'path'> => {
  const { hide = false, security = [] } = hooks.detail ?? {}
  // Default deny: a route that the table lacks is one that writes.
  const routeClass = routeClasses[`${method} ${path.replace(/:(\w+)/g, '{$1}')}`] ?? (hide ? 'free' : 'write')
  const takesLinks = security.flatMap(Object.keys).some((name) => !guardCredentials.has(name))
  return { method, path, routeClass, isGuarded: security.length > 0, takesLinks }
}

/** The set of a fact is made once. */
const createNetworkSets = () => {
  const made = new WeakMap<readonly string[], NetworkSet>()
  return (networks: readonly string[]): NetworkSet => {
    const known = made.get(networks) ?? createNetworkSet(networks)
    made.set(networks, known)
    return known
  }
}

/**
 * The restrictions of the service, at three places. Before routing: requests without a caller, and all others as far as
 * memory knows the restrictions, so that a refused one costs no work. In the guard, once a caller is known and the body was read,
 * by the restrictions that were valid together with session and account. In a decision, by the mode, which is one of its facts.
 *
 * Guarantee: when the call that sets a mode or a block has answered, no instance lets a request pass that begins later and that
 * the mode or the block refuses. Cost: two look-ups for each request, none where a front-door route was asked and nothing was
 * restricted lately. Degrades: while Postgres is down the own mode of the instance applies at once. While it is down for every
 * instance, the other restrictions are those of memory (see `StaleReads`); where memory has none, requests without a caller fail
 * with `database.unavailable`.
 */
export const createBarrier = ({
  access,
  ownMode,
  startDeadline,
}: {
  access: Pick<Access, 'restrictions' | 'restrictionsFromMemory'>
  ownMode: OwnMode
  startDeadline: () => Deadline
}) => {
  const networkSetOf = createNetworkSets()
  const refusedBefore = new WeakMap<Request, unknown>()
  /** Whether the last restrictions that were looked at restricted anything. */
  let restrictedLately = false
  let findRoute: (request: Request) => KnownRoute | undefined = () => undefined
  let addressOf: ClientAddresses['of'] | undefined

  const requirePass = (context: Pick<RequestContext, 'onlyNarrowing'>, route: RouteClass, mode: Mode, by: Sender) => {
    const pass = passes[route][mode]
    if (pass === 'all' || (pass === 'operators' && by === 'operator')) return
    if (pass === 'narrowing') {
      context.onlyNarrowing = true
      return
    }
    const refusal = refusals[mode]
    if (refusal === undefined) return
    // A breaker closes within seconds, a mode that an operator has set does not.
    throw new Fault(refusal, mode === ownMode.current ? { headers: retrySoon } : {})
  }

  const requireFor = (
    request: Request,
    context: Pick<RequestContext, 'onlyNarrowing'>,
    { mode, networks }: Restrictions,
    sender: Sender,
  ): void => {
    if (request.method === 'OPTIONS') return
    const route = findRoute(request)
    if (route?.routeClass === 'free') return
    if (networks.length > 0 && (addressOf === undefined || networkSetOf(networks).has(addressOf(request)))) {
      throw new Fault('access.blocked')
    }
    // No such route: answered 404 or 405.
    if (route === undefined) return
    // Whether the caller is an operator is not known before routing; the guard finds out.
    if (sender === 'unknown' && route.isGuarded && passes[route.routeClass][mode] === 'operators') return
    requirePass(context, route.routeClass, mode, sender)
  }

  const tryRefuse = (request: Request, restrictions: Restrictions): void => {
    try {
      requireFor(request, {}, restrictions, 'unknown')
    } catch (error) {
      refusedBefore.set(request, error)
    }
  }

  const load = async (request: Request): Promise<void> => {
    try {
      const restrictions = await access.restrictions(startDeadline())
      if (restrictions !== undefined) tryRefuse(request, restrictions)
    } catch (error) {
      refusedBefore.set(request, error)
    }
  }

  /** Whether the guard looks at the restrictions of a request anyway: not where it may have a link or a ticket instead. */
  const isLeftToGuard = (request: Request): boolean => {
    const route = findRoute(request)
    return (
      route === undefined ||
      route.routeClass === 'free' ||
      (route.isGuarded && !(route.takesLinks && request.url.includes('?')))
    )
  }

  return {
    /** Learns the routes, and how to tell the address of a client. */
    readRoutes: (routes: readonly Route[], addresses: Pick<ClientAddresses, 'of'>): void => {
      findRoute = createRouteIndex(routes.map(toKnownRoute))
      addressOf = addresses.of
    },

    require: (context: RequestContext, restrictions: Restrictions | undefined, sender: Sender): void => {
      restrictedLately = restrictions !== undefined
      if (restrictions !== undefined) requireFor(context.request, context, restrictions, sender)
    },

    /** Applies the restrictions before routing. `refuse` throws the refusal later, where the application can answer it. */
    admitBefore:
      (fetch: Fetch): Fetch =>
      (request) => {
        const known = access.restrictionsFromMemory()
        restrictedLately = known !== undefined
        if (known === undefined) return fetch(request)
        if (known !== 'unknown') {
          tryRefuse(request, known)
          return fetch(request)
        }
        if (ownMode.current !== 'normal') {
          tryRefuse(request, { mode: ownMode.current, networks: [] })
          if (refusedBefore.has(request)) return fetch(request)
        }
        return isLeftToGuard(request) ? fetch(request) : load(request).then(() => fetch(request))
      },

    /** Throws the refusal of a request that `admitBefore` has found. */
    refuse: (request: Request): void => {
      const refusal = refusedBefore.get(request)
      if (refusal !== undefined) throw refusal
    },

    /** For routes that the guard authenticates: refuses at once what memory knows to be refused. */
    refuseEarly: (request: Request): void => {
      if (!restrictedLately) return
      const known = access.restrictionsFromMemory()
      if (known !== undefined && known !== 'unknown') requireFor(request, {}, known, 'unknown')
    },
  }
}

export type RestrictionBarrier = ReturnType<typeof createBarrier>
