/* What `openid-client.ts` offers, apart from it: the library that it loads is for deployments with identity providers alone. */

/**
 * `denied`: by the person, at the provider. `refused`: the answer of the provider does not prove an identity.
 * `unavailable`: another attempt may succeed.
 */
export type ProviderFailure = 'denied' | 'refused' | 'unavailable'

/** An identity provider did not identify the person. The message is for the log, and holds no token. */
export class ProviderFailed extends Error {
  override readonly name = 'ProviderFailed'
  readonly reason: ProviderFailure
  constructor(reason: ProviderFailure, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.reason = reason
  }
}

export type OpenIdSettings = { readonly issuer: string; readonly clientId: string; readonly clientSecret: string }
/** A provider without discovery. */
export type OauthSettings = OpenIdSettings & {
  readonly authorizationEndpoint: string
  readonly tokenEndpoint: string
}

/** What the browser takes to the provider. */
export type AuthorizationRequest = {
  readonly redirectUri: string
  readonly state: string
  readonly nonce: string
  /** S256 (RFC 7636). */
  readonly codeChallenge: string
  readonly prompt: string | undefined
  /** The person must have authenticated at the provider within this time. */
  readonly maxAgeS: number | undefined
}

/** What the answer of the provider must match. */
export type Checks = Pick<AuthorizationRequest, 'state' | 'nonce'> & { readonly codeVerifier: string }

export type IdentityClaims = {
  readonly issuer: string
  readonly subject: string
  readonly email: unknown
  readonly emailVerified: unknown
  readonly name: unknown
  /** When the person authenticated at the provider. Undefined: it did not say. */
  readonly authenticatedAtMs: number | undefined
}

export type OpenIdClient = {
  authorizationUrl(request: AuthorizationRequest, signal: AbortSignal): Promise<string>
  /** Exchanges the code in `callback`, the URL to which the provider sent the browser. */
  exchange(callback: URL, checks: Checks, signal: AbortSignal): Promise<IdentityClaims>
}

/** A JSON resource of a provider, read with an access token. */
export type ReadResource = (url: string, headers: Readonly<Record<string, string>>) => Promise<unknown>

export type OauthClient = {
  authorizationUrl(request: AuthorizationRequest, scope: string): string
  exchange(callback: URL, checks: Omit<Checks, 'nonce'>, signal: AbortSignal): Promise<ReadResource>
}
