/*
 * The fields of draft-ietf-httpapi-ratelimit-headers, which are structured fields. Their partition key (`pk`) is left out: it
 * would tell who counts.
 */

type Figures = { readonly budget: string; readonly limit: number; readonly windowMs: number }

const secondsOf = (ms: number) => Math.max(1, Math.ceil(ms / 1_000))

export const policyItem = ({ budget, limit, windowMs }: Figures): string =>
  `"${budget}";q=${limit};w=${secondsOf(windowMs)}`

/** `r` units may be consumed within the next `t` seconds. */
export const stateItem = (budget: string, remaining: number, afterMs: number): string =>
  `"${budget}";r=${remaining};t=${secondsOf(afterMs)}`
