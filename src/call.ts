import type { Deadline } from './kit/deadline.ts'

/** One request on its way through the house: what every layer may need and no layer may change. */
export type Call = {
  readonly requestId: string
  readonly deadline: Deadline
}

/** Where clients reach this service: as it was configured, else where this request was sent. */
export const originOf = ({ publicUrl }: { readonly publicUrl: string | undefined }, request: Request): string =>
  publicUrl ?? new URL(request.url).origin
