import type { Deadline } from './kit/deadline.ts'

/** One request on its way through the house: what every layer may need and no layer may change. */
export type Call = {
  readonly requestId: string
  readonly deadline: Deadline
}
