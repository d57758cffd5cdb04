/** The delay that a Retry-After header requests (RFC 9110 §10.2.3); undefined when it is absent or malformed. */
export const retryAfterMs = (header: string | null | undefined, nowMs: number): number | undefined => {
  const text = header?.trim()
  if (text === undefined || text === '') return undefined
  const ms = /^\d{1,10}$/.test(text) ? Number(text) * 1_000 : Date.parse(text) - nowMs
  return Number.isNaN(ms) ? undefined : Math.max(0, ms)
}
