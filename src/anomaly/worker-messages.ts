import type { Delta } from './delta.ts'
import type { Finding } from './detector.ts'
import type { Ring } from './ring.ts'

/** What the threads say to each other. */
export type ToWorker =
  /** `from`: the first record to read. */
  | {
      readonly type: 'start'
      readonly ring: Ring
      readonly from: number
      readonly near: readonly (readonly [number, number])[]
    }
  /** Deltas of other instances, and the time by the clock of the service. */
  | { readonly type: 'tick'; readonly nowMs: number; readonly deltas: readonly Delta[] }

/** `seen`: the number of a record of the principal in the ring, by which its name can be found; undefined: not seen here. */
export type NamedFinding = Finding & { readonly seen: number | undefined }

export type FromWorker = {
  readonly type: 'tick'
  readonly findings: readonly NamedFinding[]
  readonly exchanged: readonly Delta[]
  readonly lost: number
  readonly principals: number
  readonly sessions: number
}
