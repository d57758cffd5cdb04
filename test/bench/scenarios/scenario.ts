import type { Load, Measured } from '../load/send.ts'
import type { Result } from '../report.ts'

/** What a scenario is given: how long one measurement takes, and what sends one request again and again. */
export type Bench = {
  readonly seconds: number
  /** Another checkout to compare with, and environment variables for this one. */
  readonly other?: { readonly folder: string; readonly settings: Readonly<Record<string, string>> }
  readonly send: (load: Omit<Load, 'seconds'> & { readonly seconds?: number }) => Promise<Measured>
}

/** Starts its servers and measures. The caller stops the servers. */
export type Scenario = (bench: Bench) => Promise<Omit<Result, 'scenario'>>
