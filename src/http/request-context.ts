import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'

/** One request on its way through the house: what every layer may need and no layer may change. */
export type RequestContext = {
  readonly requestId: string
  readonly deadline: Deadline
}

/** Where clients reach this service: as it was configured, else where this request says it was sent, if that is a place. */
export const originOf = ({ publicUrl }: { readonly publicUrl: string | undefined }, request: Request): string => {
  const origin = publicUrl ?? URL.parse(request.url)?.origin
  if (origin === undefined) throw new Fault('request.malformed')
  return origin
}
