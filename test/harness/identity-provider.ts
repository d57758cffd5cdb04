import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { CompactSign, type CryptoKey, exportJWK, generateKeyPair, type JWK } from 'jose'
import Provider, { type AccountClaims } from 'oidc-provider'

export type Claims = Record<string, unknown>
type Token = { id_token?: string | undefined; access_token?: string } & Claims

/** A key pair of a provider: to sign with, and as it publishes it. */
export type ProviderKey = { readonly privateKey: CryptoKey; readonly privateJwk: JWK; readonly publicJwk: JWK }

export const newProviderKey = async (kid: string): Promise<ProviderKey> => {
  const pair = await generateKeyPair('RS256', { extractable: true })
  const named = { kid, use: 'sig', alg: 'RS256' }
  return {
    privateKey: pair.privateKey,
    privateJwk: { ...(await exportJWK(pair.privateKey)), ...named },
    publicJwk: { ...(await exportJWK(pair.publicKey)), ...named },
  }
}

export const claimsOf = (token: string): Claims =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())

export const signClaims = (claims: Claims, key: CryptoKey | Uint8Array, header: { alg: string; kid?: string }) =>
  new CompactSign(Buffer.from(JSON.stringify(claims))).setProtectedHeader(header).sign(key)

export type TestIdentityProvider = {
  readonly issuer: string
  readonly key: ProviderKey
  /** The claims of its accounts. */
  readonly people: Map<string, Claims>
  /** Who is signed in at the provider in every browser. Undefined: a person who refuses. */
  signedIn: string | undefined
  /** Changes an answer of the token endpoint before it is sent. */
  onToken: ((token: Token) => Token | Promise<Token>) | undefined
  /** Replaces any answer; called with the path. */
  onRequest: ((path: string) => Response | Promise<Response> | undefined) | undefined
  /** Paths that were asked for. */
  readonly requests: string[]
  close(): Promise<void>
}

const listen = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

/** A real OpenID Connect provider (oidc-provider) that requires PKCE, and whose answers a test can change. */
export const startIdentityProvider = async ({
  clientId,
  clientSecret,
  redirectUris,
  authentication = 'client_secret_basic',
}: {
  clientId: string
  clientSecret: string
  redirectUris: string[]
  authentication?: 'client_secret_basic' | 'client_secret_post'
}): Promise<TestIdentityProvider> => {
  const server = createServer()
  const issuer = `http://127.0.0.1:${await listen(server)}`
  const key = await newProviderKey('first')
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: redirectUris,
        token_endpoint_auth_method: authentication,
      },
    ],
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'HS256'] },
    jwks: { keys: [key.privateJwk as never] },
    pkce: { required: () => true },
    cookies: { keys: ['of a test'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
    findAccount: (_ctx, accountId) => ({
      accountId,
      claims: async () => ({ sub: accountId, ...state.people.get(accountId) }) as AccountClaims,
    }),
    loadExistingGrant: async ({ oidc }) => {
      const { client, session } = oidc
      const known = session?.grantIdFor(client?.clientId ?? '')
      if (known !== undefined) return provider.Grant.find(known)
      const grant = new provider.Grant({ clientId: client?.clientId, accountId: session?.accountId })
      grant.addOIDCScope('openid email profile')
      await grant.save()
      return grant
    },
  })
  const state: TestIdentityProvider = {
    issuer,
    key,
    people: new Map(),
    signedIn: undefined,
    onToken: undefined,
    onRequest: undefined,
    requests: [],
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
  provider.use(async (ctx, next) => {
    state.requests.push(ctx.path)
    const replaced = await state.onRequest?.(ctx.path)
    if (replaced !== undefined) {
      ctx.status = replaced.status
      ctx.set(Object.fromEntries(replaced.headers))
      ctx.body = Buffer.from(await replaced.arrayBuffer())
      return
    }
    await next()
    if (ctx.path === '/token' && ctx.status === 200 && state.onToken !== undefined)
      ctx.body = await state.onToken(ctx.body as Token)
  })
  const serve = provider.callback()
  server.on('request', (request, response) => {
    if (!request.url?.startsWith('/interaction/')) return void serve(request, response)
    const { signedIn } = state
    const result =
      signedIn === undefined
        ? { error: 'access_denied', error_description: 'the person refused' }
        : { login: { accountId: signedIn } }
    void provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false })
  })
  return state
}
