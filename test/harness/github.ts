import { createHash, randomBytes } from 'node:crypto'

export type GithubUser = {
  readonly id: number
  readonly login: string
  readonly name: string | null
  readonly emails: readonly { readonly email: string; readonly primary: boolean; readonly verified: boolean }[]
}

export type TestGithub = {
  readonly url: string
  user: GithubUser
  /** False: the app may not read addresses, as a GitHub App without that permission. */
  givesEmails: boolean
  /** Exchanges that were refused, by the word of GitHub. */
  readonly refusals: string[]
  close(): Promise<void>
}

const json = (body: unknown, status = 200) => Response.json(body, { status })

/**
 * GitHub Enterprise Server as its documentation describes it, as far as signing in needs it: codes with PKCE, used once; errors of
 * the token endpoint with status 200; scopes separated by commas; an API that wants a User-Agent.
 */
export const startGithub = ({
  clientId,
  clientSecret,
  redirectUri,
}: {
  clientId: string
  clientSecret: string
  redirectUri: string
}): TestGithub => {
  const codes = new Map<string, string>()
  const tokens = new Set<string>()
  const refuse = (error: string) => {
    state.refusals.push(error)
    return json({ error, error_description: 'See the documentation', error_uri: 'https://docs.github.com/' })
  }

  const authorize = (parameters: URLSearchParams): Response => {
    const back = new URL(redirectUri)
    const isOurs =
      parameters.get('client_id') === clientId &&
      parameters.get('redirect_uri') === redirectUri &&
      parameters.get('code_challenge_method') === 'S256'
    if (!isOurs) return new Response('Not Found', { status: 404 })
    const code = randomBytes(10).toString('hex')
    codes.set(code, parameters.get('code_challenge') ?? '')
    back.searchParams.set('code', code)
    back.searchParams.set('state', parameters.get('state') ?? '')
    return new Response(null, { status: 302, headers: { location: back.href } })
  }

  const exchange = async (request: Request): Promise<Response> => {
    const given = new URLSearchParams(await request.text())
    if (given.get('client_id') !== clientId || given.get('client_secret') !== clientSecret)
      return refuse('incorrect_client_credentials')
    const challenge = codes.get(given.get('code') ?? '')
    codes.delete(given.get('code') ?? '')
    const verified = createHash('sha256')
      .update(given.get('code_verifier') ?? '')
      .digest('base64url')
    if (challenge === undefined || verified !== challenge) return refuse('bad_verification_code')
    if (given.get('redirect_uri') !== redirectUri) return refuse('redirect_uri_mismatch')
    const token = `gho_${randomBytes(18).toString('hex')}`
    tokens.add(token)
    return json({ access_token: token, scope: 'read:user,user:email', token_type: 'bearer' })
  }

  const api = (request: Request, path: string): Response => {
    if (request.headers.get('user-agent') === null) return json({ message: 'Administrative rules' }, 403)
    const token = /^bearer (.+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
    if (token === undefined || !tokens.has(token)) return json({ message: 'Bad credentials' }, 401)
    const { id, login, name, emails } = state.user
    if (path === '/user') return json({ id, login, name, email: null })
    if (path !== '/user/emails') return json({ message: 'Not Found' }, 404)
    return state.givesEmails ? json(emails) : json({ message: 'Resource not accessible by integration' }, 403)
  }

  const server = Bun.serve({
    hostname: '127.0.0.1',
    port: 0,
    fetch: async (request) => {
      const { pathname, searchParams } = new URL(request.url)
      if (pathname === '/login/oauth/authorize') return authorize(searchParams)
      if (pathname === '/login/oauth/access_token' && request.method === 'POST') return exchange(request)
      if (pathname.startsWith('/api/v3/')) return api(request, pathname.slice('/api/v3'.length))
      return new Response('Not Found', { status: 404 })
    },
  })
  const state: TestGithub = {
    url: `http://127.0.0.1:${server.port}`,
    user: { id: 1, login: 'octocat', name: null, emails: [] },
    givesEmails: true,
    refusals: [],
    close: () => server.stop(true),
  }
  return state
}
