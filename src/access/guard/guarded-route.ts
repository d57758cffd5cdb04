import { isWayOutOfRoute, scopeOfRoute } from '../../http/contract.ts'
import type { Spending } from '../../limits/spending.ts'
import { type ActingScope, actingScopes } from '../policy/matrix.ts'

/** A route as its macro knows it, once `read` got the options of the route. */
export type GuardedRoute = {
  readonly spend: Spending
  /** The scope with which a service may call the route for a user; undefined: people alone may call it. */
  scope(): ActingScope | undefined
  /** Whether it is called from wherever the person is, because it is how to authenticate again there. */
  isWayOut(): boolean
  read(hook: unknown): void
}

/**
 * `admitsActing`: false for a macro that admits no service for a user. Then a route with a scope fails the start, and so does an
 * unknown scope.
 */
export const createGuardedRoute = (spend: Spending, { admitsActing = true } = {}): GuardedRoute => {
  let scope: ActingScope | undefined
  let isWayOut = false
  return {
    spend,
    scope: () => scope,
    isWayOut: () => isWayOut,
    read: (hook) => {
      spend.readRoute(hook)
      const { detail } = hook as { detail?: unknown }
      isWayOut = isWayOutOfRoute(detail)
      const given = scopeOfRoute(detail)
      if (given === undefined) return
      const known = actingScopes.find((each) => each === given)
      if (known === undefined || !admitsActing) throw new TypeError(`A route cannot have the scope ${given}`)
      scope = known
    },
  }
}
