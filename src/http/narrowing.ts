import { Fault } from '../fault.ts'
import type { RequestContext } from './request-context.ts'

/**
 * For changes that may take access away or give some: refuses one that does anything but take it away, while the mode of the
 * service is read-only. Call it in the transaction of the change, once its rows are locked.
 */
export const requireNarrowing = (
  { onlyNarrowing }: Pick<RequestContext, 'onlyNarrowing'>,
  isNarrowing: boolean,
): void => {
  if (onlyNarrowing === true && !isNarrowing) throw new Fault('mode.read_only')
}
