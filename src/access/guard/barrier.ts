import type { RequestContext } from '../../http/request-context.ts'
import type { Restrictions } from '../policy/restrictions.ts'

/** Who sent a request: `unknown` where it is not, or not yet, authenticated. */
export type Sender = 'operator' | 'other' | 'unknown'

/**
 * Applies the restrictions to a request: refuses it with 403 `access.blocked` where it comes from a blocked network, and with 503
 * where the mode lets the class of its route not pass. Marks the context of a request that may only take access away.
 */
export type Barrier = {
  /** `restrictions`: undefined where nothing is restricted. */
  require(context: RequestContext, restrictions: Restrictions | undefined, sender: Sender): void
}

/** For services that restrict nothing. */
export const noBarrier: Barrier = { require: () => {} }
