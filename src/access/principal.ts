/** Who asks: the person of a live session. */
export type Caller = {
  readonly userId: string
  readonly sessionId: string
  readonly role: 'user' | 'admin'
  /** Let in by what was remembered when Postgres went away; see `EmergencyReads`. */
  readonly stale?: boolean
}

/** A service that asks with a key of its own. */
export type Service = { readonly keyId: string }

/** Whoever may ask about access: a person about itself, a service about anybody. */
export type Principal =
  | { readonly kind: 'person'; readonly caller: Caller }
  | { readonly kind: 'service'; readonly service: Service }

/** What an access token claims, its signature checked, its session not yet. */
export type Claims = { readonly userId: string; readonly sessionId: string }
/** And until when the token is good. */
export type TokenClaims = Claims & { readonly expiresAtMs: number }
