import { scopeOfRoute } from '../../http/contract.ts'
import type { Spending } from '../../limits/spending.ts'
import { type ActingScope, actingScopes } from '../policy/matrix.ts'

/** A route as its macro knows it, once `read` got the options of the route. */
export type GuardedRoute = {
  readonly spend: Spending
  /** The scope with which a service may call the route for a user; undefined: people alone may call it. */
  scope(): ActingScope | undefined
  read(hook: unknown): void
}

/**
 * `admitsActing`: false for a macro that admits no service for a user. Then a route with a scope fails the start, and so does an
 * unknown scope.
 */
export const createGuardedRoute = (spend: Spending, { admitsActing = true } = {}): GuardedRoute => {
  let scope: ActingScope | undefined
  return {
    spend,
    scope: () => scope,
    read: (hook) => {
      spend.readRoute(hook)
      const given = scopeOfRoute((hook as { detail?: unknown }).detail)
      if (given === undefined) return
      const known = actingScopes.find((each) => each === given)
      if (known === undefined || !admitsActing) throw new TypeError(`A route cannot have the scope ${given}`)
      scope = known
    },
  }
}
