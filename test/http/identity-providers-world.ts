import { createHash, randomBytes } from 'node:crypto'
import { readIdentityProviders } from '../../src/identity/identity-providers/settings.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { type Browser, createBrowser } from '../harness/browser.ts'
import { type GithubUser, startGithub, type TestGithub } from '../harness/github.ts'
import { type Claims, startIdentityProvider, type TestIdentityProvider } from '../harness/identity-provider.ts'
import {
  type Answer,
  type Api,
  api,
  freePort,
  type Person,
  startApp,
  type TestApp,
  type TestAppOptions,
} from '../harness.ts'

export const publicUrl = 'http://velro.test'
export const returnTo = 'https://app.example.com/signed-in?from=velro'
const clientId = 'velro-test'
export const clientSecret = 'a client secret of the tests, 32+ characters'
const paths = `${publicUrl}/api/v1/auth/identity-providers`
export const callbackOf = (id: string) => `${paths}/${id}/callback`

export const newVerifier = (): string => randomBytes(32).toString('base64url')
export const challengeOf = (verifier: string): string => createHash('sha256').update(verifier).digest('base64url')

/** What a browser came back with. */
export type Returned = {
  readonly code: string | undefined
  readonly error: string | undefined
  readonly verifier: string
}

export type World = {
  readonly app: TestApp
  readonly client: Api
  readonly clock: ReturnType<typeof manualClock>
  readonly provider: TestIdentityProvider
  readonly github: TestGithub
  newBrowser(): Browser
  /** A person with an account at the provider, signed in there. */
  at(claims: Claims): string
  startUrl(id: string, verifier: string): string
  /** Where a browser is on its way back from the provider, before this service gets the answer. */
  callbackUrl(browser: Browser, id?: string, verifier?: string): Promise<URL>
  returned(url: string, verifier: string): Returned
  /** Opens an address in a browser, up to the return to the client. */
  follow(
    browser: Browser,
    url: string,
    verifier: string,
  ): Promise<Returned & { readonly response: Response | undefined }>
  /** The whole way of a new browser to a provider and back. */
  go(id?: string): Promise<Returned>
  signIn(returned: Returned, more?: Record<string, unknown>): Promise<Answer>
  /** Proves an identity for the account of a signed-in person. */
  goFor(
    person: { token: string },
    purpose: 'link' | 'reauthenticate',
    id?: string,
    browser?: Browser,
  ): Promise<Returned>
  link(person: { token: string }, returned: Returned): Promise<Answer>
  reauthenticate(person: { token: string }, returned: Returned): Promise<Answer>
  close(): Promise<void>
}

export const tokenOf = ({ body }: Answer): Pick<Person, 'token' | 'id'> => ({
  token: body.access_token,
  id: body.user.id,
})

const subjects = { next: 1 }
export const newEmail = () => `person-${randomBytes(6).toString('hex')}@example.com`

export const startWorld = async ({ config, ...options }: TestAppOptions = {}): Promise<World> => {
  const clock = manualClock(Date.now())
  const redirectUris = ['acme', 'other'].map(callbackOf)
  const provider = await startIdentityProvider({ clientId, clientSecret, redirectUris })
  const github = startGithub({ clientId, clientSecret, redirectUri: callbackOf('github') })
  const credentials = { clientId, clientSecret }
  const problems: string[] = []
  const identityProviders = readIdentityProviders(
    {
      google: { clientId: undefined, clientSecret: undefined },
      github: { ...credentials, baseUrl: github.url },
      others: [
        ...['acme', 'other'].map((id) => ({ id, issuer: provider.issuer, name: undefined, ...credentials })),
        { id: 'gone', issuer: `http://127.0.0.1:${await freePort()}`, name: 'Gone Ltd', ...credentials },
      ],
    },
    { publicUrl, returnTo: [returnTo] },
    problems,
  )
  if (problems.length > 0) throw new Error(problems.join('\n'))
  const app = await startApp({
    clock,
    ...options,
    config: { publicUrl, returnTo: [returnTo, 'com.example.app:/signed-in'], identityProviders, ...config },
  })
  const client = api(app.baseUrl)
  const newBrowser = () => createBrowser({ [publicUrl]: app.baseUrl })
  const startUrl = (id: string, verifier: string) =>
    `${paths}/${id}/start?${new URLSearchParams({ return_to: returnTo, code_challenge: challengeOf(verifier) })}`
  const returned = (url: string, verifier: string): Returned => {
    // The callback has a code too: that of the provider.
    const searchParams = url.startsWith(returnTo) ? new URL(url).searchParams : new URLSearchParams()
    return {
      code: searchParams.get('code') ?? undefined,
      error: searchParams.get('error') ?? undefined,
      verifier,
    }
  }
  const follow: World['follow'] = async (browser, url, verifier) => {
    const { url: last, response } = await browser.visit(url, returnTo)
    return { ...returned(last, verifier), response }
  }
  return {
    app,
    client,
    clock,
    provider,
    github,
    newBrowser,
    at: (claims) => {
      const subject = `subject-${subjects.next}`
      subjects.next += 1
      provider.people.set(subject, claims)
      provider.signedIn = subject
      return subject
    },
    startUrl,
    callbackUrl: async (browser, id = 'acme', verifier = newVerifier()) =>
      new URL((await browser.visit(startUrl(id, verifier), callbackOf(id))).url),
    returned,
    follow,
    go: (id = 'acme') => {
      const verifier = newVerifier()
      return follow(newBrowser(), startUrl(id, verifier), verifier)
    },
    signIn: ({ code, verifier }, more) =>
      client.post('/api/v1/auth/identity-providers/sign-in', { code, code_verifier: verifier, ...more }),
    goFor: async ({ token }, purpose, id = 'acme', browser = newBrowser()) => {
      const verifier = newVerifier()
      const input = { purpose, return_to: returnTo, code_challenge: challengeOf(verifier) }
      const { body } = await client.post(`/api/v1/auth/identity-providers/${id}/start`, input, { token })
      return follow(browser, body.url, verifier)
    },
    link: ({ token }, { code, verifier }) =>
      client.post('/api/v1/auth/linked-identities', { code, code_verifier: verifier }, { token }),
    reauthenticate: ({ token }, { code, verifier }) =>
      client.post('/api/v1/auth/identity-providers/reauthenticate', { code, code_verifier: verifier }, { token }),
    close: async () => {
      await app.close()
      await provider.close()
      await github.close()
    },
  }
}

export const octocat = (over: Partial<GithubUser> = {}): GithubUser => ({
  id: 583_231 + subjects.next++,
  login: 'octocat',
  name: 'Mona Octocat',
  emails: [{ email: newEmail(), primary: true, verified: true }],
  ...over,
})
