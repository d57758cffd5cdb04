import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'

/** The context of one request, which every layer may read and none may change. */
export type RequestContext = {
  readonly requestId: string
  readonly deadline: Deadline
}

/** The origin at which clients reach this service: `publicUrl`, else the origin of the request. Throws `request.malformed` without either. */
export const originOf = ({ publicUrl }: { readonly publicUrl: string | undefined }, request: Request): string => {
  const origin = publicUrl ?? URL.parse(request.url)?.origin
  if (origin === undefined) throw new Fault('request.malformed')
  return origin
}
