import { Buffer } from 'node:buffer'
import * as client from 'openid-client'
import { rejectOnAbort } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import {
  type AuthorizationRequest,
  type OauthClient,
  type OauthSettings,
  type OpenIdClient,
  type OpenIdSettings,
  ProviderFailed,
  type ProviderFailure,
} from './identity-provider.ts'
import { singleUseFetch } from './single-use-fetch.ts'

/** Signatures with keys that the provider publishes. Not `none`, and not HS256, whose key its clients share. */
const signatureAlgorithms = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512'],
  ...['EdDSA', 'Ed25519'],
]
const maxResponseBytes = 1_048_576
const metadataTtlMs = 3_600_000
const metadataRetryMs = 60_000
const discoveryTimeoutS = 10

const deniedErrors = new Set(['access_denied', 'login_required', 'consent_required', 'interaction_required'])
const transientErrors = new Set(['server_error', 'temporarily_unavailable', 'slow_down'])

const statusOf = (cause: unknown): number => (cause instanceof Response ? cause.status : 0)

const reasonOf = (error: unknown): ProviderFailure => {
  if (error instanceof client.AuthorizationResponseError) {
    if (deniedErrors.has(error.error)) return 'denied'
    return transientErrors.has(error.error) ? 'unavailable' : 'refused'
  }
  if (error instanceof client.ResponseBodyError) {
    return error.status >= 500 || transientErrors.has(error.error) ? 'unavailable' : 'refused'
  }
  if (error instanceof client.WWWAuthenticateChallengeError) return 'refused'
  if (error instanceof client.ClientError) {
    return error.code === 'OAUTH_TIMEOUT' || statusOf(error.cause) >= 500 ? 'unavailable' : 'refused'
  }
  return 'refused'
}

const messageOf = (error: unknown): string => {
  if (error instanceof client.AuthorizationResponseError) return `the provider answered ${error.error.slice(0, 64)}`
  if (error instanceof client.ResponseBodyError) return `the token endpoint answered ${error.error.slice(0, 64)}`
  // Says which claim is wrong, and never its value.
  if (error instanceof client.ClientError)
    return `${error.code ?? 'error'}: ${error.cause instanceof Error ? error.cause.message : error.message}`
  return 'the answer of the provider cannot be used'
}

/** What the requests below have thrown, which the library wraps. */
const findOwn = (error: unknown): ProviderFailed | undefined => {
  if (error instanceof ProviderFailed) return error
  return error instanceof Error ? findOwn(error.cause) : undefined
}

const failing = async <T>(work: () => Promise<T>): Promise<T> => {
  try {
    return await work()
  } catch (error) {
    throw findOwn(error) ?? new ProviderFailed(reasonOf(error), messageOf(error), error)
  }
}

const readBounded = async (response: Response): Promise<Uint8Array<ArrayBuffer>> => {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > maxResponseBytes) throw new ProviderFailed('refused', `a response exceeds ${maxResponseBytes} bytes`)
    chunks.push(chunk)
  }
  return new Uint8Array(Buffer.concat(chunks, length))
}

/** Sends each request once, because a code can be used once, under the deadline of `signal`. */
const fetchUnder =
  (signal: AbortSignal): client.CustomFetch =>
  async (url, { body, headers, method, redirect, signal: own }) => {
    const init: RequestInit = { method, headers, redirect, signal: own ? AbortSignal.any([signal, own]) : signal }
    if (body !== undefined && body !== null) init.body = body as BodyInit
    const [response, bytes] = await singleUseFetch(url, init)
      .then(async (response) => [response, await readBounded(response)] as const)
      .catch((error) => {
        throw findOwn(error) ?? new ProviderFailed('unavailable', 'the provider cannot be reached', error)
      })
    const { status } = response
    const kept = new Headers(response.headers)
    // The runtime has decoded the body already.
    kept.delete('content-encoding')
    kept.delete('content-length')
    return new Response(bytes.length === 0 ? null : bytes, { status, headers: kept })
  }

const isPlainHttp = (url: string): boolean => url.startsWith('http:')

/** Requests of one exchange. Nothing is kept for the next: keys that the provider has withdrawn are trusted no longer. */
const configure = (
  metadata: client.ServerMetadata,
  { clientId, clientSecret }: OpenIdSettings,
  signal: AbortSignal,
): client.Configuration => {
  const methods = metadata.token_endpoint_auth_methods_supported ?? ['client_secret_basic']
  const authentication = methods.includes('client_secret_post')
    ? client.ClientSecretPost(clientSecret)
    : client.ClientSecretBasic(clientSecret)
  const configuration = new client.Configuration(metadata, clientId, { client_secret: clientSecret }, authentication)
  configuration[client.customFetch] = fetchUnder(signal)
  if (isPlainHttp(metadata.issuer)) client.allowInsecureRequests(configuration)
  return configuration
}

/** The metadata that a provider publishes, read again after an hour. Degrades: an older copy serves while it cannot be read. */
const createDiscovery = ({ issuer, clientId, clientSecret }: OpenIdSettings, clock: Clock) => {
  let known: client.ServerMetadata | undefined
  let nextMs = Number.NEGATIVE_INFINITY
  let loading: Promise<client.ServerMetadata> | undefined

  const load = async (): Promise<client.ServerMetadata> => {
    const execute = isPlainHttp(issuer) ? [client.allowInsecureRequests] : []
    const found = await client.discovery(new URL(issuer), clientId, clientSecret, undefined, {
      execute,
      timeout: discoveryTimeoutS,
      [client.customFetch]: fetchUnder(AbortSignal.timeout(discoveryTimeoutS * 1_000)),
    })
    const { supportsPKCE: _, ...metadata } = found.serverMetadata()
    const offered = metadata.id_token_signing_alg_values_supported
    return {
      ...metadata,
      ...(offered && {
        id_token_signing_alg_values_supported: offered.filter((name) => signatureAlgorithms.includes(name)),
      }),
    }
  }

  const refresh = async (): Promise<client.ServerMetadata> => {
    try {
      known = await load()
      nextMs = clock.monotonic() + metadataTtlMs
      return known
    } catch (error) {
      if (known === undefined) throw error
      nextMs = clock.monotonic() + metadataRetryMs
      return known
    } finally {
      loading = undefined
    }
  }

  return (signal: AbortSignal): Promise<client.ServerMetadata> => {
    if (known !== undefined && clock.monotonic() < nextMs) return Promise.resolve(known)
    // Shared by the requests that wait, so the deadline of one does not end it for the others.
    loading ??= refresh()
    return rejectOnAbort(loading, signal).catch((error) => {
      throw signal.aborted ? new ProviderFailed('unavailable', 'the metadata was not read in time') : error
    })
  }
}

const parametersOf = (request: AuthorizationRequest, scope: string): Record<string, string> => ({
  redirect_uri: request.redirectUri,
  scope,
  state: request.state,
  code_challenge: request.codeChallenge,
  code_challenge_method: 'S256',
  ...(request.prompt !== undefined && { prompt: request.prompt }),
  ...(request.maxAgeS !== undefined && { max_age: String(request.maxAgeS) }),
})

/**
 * An OpenID Connect provider, found by its issuer.
 *
 * Guarantee: `exchange` returns claims only of an ID token that the provider signed with a key that it publishes now, for this
 * client, not expired, and with the nonce of this sign-in, for a code that the provider gave to the holder of the code verifier.
 * Otherwise rejects with `ProviderFailed`.
 */
export const createOpenIdClient = (settings: OpenIdSettings, clock: Clock): OpenIdClient => {
  const discover = createDiscovery(settings, clock)
  return {
    authorizationUrl: (request, signal) =>
      failing(async () => {
        const configuration = configure(await discover(signal), settings, signal)
        const parameters = { ...parametersOf(request, 'openid email profile'), nonce: request.nonce }
        return client.buildAuthorizationUrl(configuration, parameters).href
      }),

    exchange: (callback, { state, nonce, codeVerifier }, signal) =>
      failing(async () => {
        const configuration = configure(await discover(signal), settings, signal)
        client.enableNonRepudiationChecks(configuration)
        const tokens = await client.authorizationCodeGrant(configuration, callback, {
          expectedState: state,
          expectedNonce: nonce,
          pkceCodeVerifier: codeVerifier,
          idTokenExpected: true,
        })
        const claims = tokens.claims()
        if (claims === undefined) throw new ProviderFailed('refused', 'the provider sent no ID token')
        if (claims.sub === '') throw new ProviderFailed('refused', 'the subject is empty')
        const hasProfile = claims['email'] !== undefined
        const mayAsk = configuration.serverMetadata().userinfo_endpoint !== undefined
        // Address and verification are taken from one source.
        const profile =
          hasProfile || !mayAsk ? claims : await client.fetchUserInfo(configuration, tokens.access_token, claims.sub)
        return {
          issuer: claims.iss,
          subject: claims.sub,
          email: profile['email'],
          emailVerified: profile['email_verified'],
          name: profile['name'],
          authenticatedAtMs: claims.auth_time === undefined ? undefined : claims.auth_time * 1_000,
        }
      }),
  }
}

/**
 * A provider of OAuth 2.0 alone: it gives an access token and says by its own API whose it is. `exchange` rejects with
 * `ProviderFailed`, as do reads of its API.
 */
export const createOauthClient = (settings: OauthSettings): OauthClient => {
  const metadata: client.ServerMetadata = {
    issuer: settings.issuer,
    authorization_endpoint: settings.authorizationEndpoint,
    token_endpoint: settings.tokenEndpoint,
    token_endpoint_auth_methods_supported: ['client_secret_post'],
  }
  return {
    authorizationUrl: (request, scope) =>
      client.buildAuthorizationUrl(
        configure(metadata, settings, AbortSignal.abort()),
        parametersOf({ ...request, maxAgeS: undefined }, scope),
      ).href,

    exchange: (callback, { state, codeVerifier }, signal) =>
      failing(async () => {
        const configuration = configure(metadata, settings, signal)
        const checks = { expectedState: state, pkceCodeVerifier: codeVerifier }
        const { access_token: token } = await client.authorizationCodeGrant(configuration, callback, checks)
        return (url, headers) =>
          failing(async () => {
            const target = new URL(url)
            const asked = new Headers(headers)
            const response = await client.fetchProtectedResource(configuration, token, target, 'GET', null, asked)
            if (response.status === 200) return response.json()
            const reason = response.status >= 500 || response.status === 429 ? 'unavailable' : 'refused'
            throw new ProviderFailed(
              reason,
              `${target.host} answered ${target.pathname} with status ${response.status}`,
            )
          })
      }),
  }
}
