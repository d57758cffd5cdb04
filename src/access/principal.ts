import type { Plan } from '../limits/plans.ts'
import type { AccountLimits } from '../limits/policy.ts'
import type { SessionOrigin } from './policy/facts/session.ts'
import type { Circumstances } from './policy/findings.ts'
import type { Restrictions } from './policy/restrictions.ts'

/** A person with an active session and account, or for whom a service acts. */
export type Caller = {
  readonly userId: string
  /** Where a service acts: the id of its key, which is the id of no session. So nothing that needs a session works with it. */
  readonly sessionId: string
  readonly role: 'user' | 'admin'
  readonly plan: Plan
  /** Figures that an operator set for the account. */
  readonly limits: AccountLimits | null
  /** When the person last proved who they are in this session: signed in, or authenticated again. */
  readonly authenticatedAtMs: number
  /** Where the session was opened; undefined where that is not known, and where a service acts. */
  readonly origin: SessionOrigin | undefined
  /** True if session or account are stale facts; see `StaleReads`. */
  readonly stale?: boolean
  /** The service that acts for this person. */
  readonly service?: Service
  /** As they were together with session and account; undefined where nothing is restricted. */
  readonly restrictions?: Restrictions | undefined
  /** What was found out about the request, for its decisions. */
  readonly circumstances?: Circumstances | undefined
}

/** A service that authenticated with its own key. */
export type Service = {
  readonly keyId: string
  readonly limitPerSecond: number | null
  /** The address from which it calls. */
  readonly addressOf: () => string
  /** As they were together with the key; undefined where nothing is restricted. */
  readonly restrictions?: Restrictions | undefined
}

/** Either kind of authenticated client: a person may ask about its own access, a service about that of any user. */
export type Principal =
  | { readonly kind: 'person'; readonly caller: Caller }
  | { readonly kind: 'service'; readonly service: Service }

/** The claims of an access token. Its signature was verified; its session was not looked up yet. */
export type Claims = { readonly userId: string; readonly sessionId: string }
/** Claims with the expiry of the token. */
export type TokenClaims = Claims & { readonly expiresAtMs: number }

/**
 * What a request authenticates with, as far as it can be checked without facts: a token with a valid signature, or a key of the
 * right form.
 */
export type Credential = TokenCredential | KeyCredential
export type TokenCredential = { readonly kind: 'token'; readonly claims: TokenClaims }
export type KeyCredential = { readonly kind: 'key'; readonly key: PresentedKey }

/** A service key as presented: its id, and the hash of its secret. */
export type PresentedKey = { readonly id: string; readonly secretHash: Uint8Array }

/** Who asks, for the audit log. */
export const actorOf = (principal: Principal): Caller | Service =>
  principal.kind === 'person' ? principal.caller : principal.service
