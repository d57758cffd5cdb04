import { describe, expect, test } from 'bun:test'
import { ConfigRefused, parseConfig } from '../../src/config.ts'
import { isReturnUrl } from '../../src/identity/identity-providers/settings.ts'

const usual = { PUBLIC_URL: 'https://api.example.com', RETURN_TO_URLS: 'https://app.example.com/signed-in' }
const google = { GOOGLE_CLIENT_ID: 'id', GOOGLE_CLIENT_SECRET: 'secret' }
const acme = {
  OIDC_PROVIDERS: 'acme',
  OIDC_ACME_ISSUER: 'https://login.acme.example',
  OIDC_ACME_CLIENT_ID: 'id',
  OIDC_ACME_CLIENT_SECRET: 'secret',
}

const problemsOf = (env: Record<string, string>): readonly string[] => {
  try {
    parseConfig(env)
    return []
  } catch (error) {
    if (error instanceof ConfigRefused) return error.problems
    throw error
  }
}

describe('identity providers are read from the environment', () => {
  test('none by default', () => {
    expect(parseConfig({}).identityProviders).toEqual([])
  })

  test('Google as a preset, GitHub by OAuth 2.0, and others by their issuer', () => {
    const github = { GITHUB_CLIENT_ID: 'g', GITHUB_CLIENT_SECRET: 's' }
    const { identityProviders } = parseConfig({ ...usual, ...google, ...github, ...acme, OIDC_ACME_NAME: 'Acme Ltd' })
    expect(identityProviders.map(({ id, name, kind, issuer, apiUrl }) => [id, name, kind, issuer, apiUrl])).toEqual([
      ['google', 'Google', 'openid', 'https://accounts.google.com', undefined],
      ['github', 'GitHub', 'github', 'https://github.com/login/oauth', 'https://api.github.com'],
      ['acme', 'Acme Ltd', 'openid', 'https://login.acme.example', undefined],
    ])
  })

  test('GitHub Enterprise Server by its URL, whose API is below it', () => {
    const env = { GITHUB_CLIENT_ID: 'g', GITHUB_CLIENT_SECRET: 's', GITHUB_BASE_URL: 'https://git.example.com/' }
    expect(parseConfig({ ...usual, ...env }).identityProviders).toMatchObject([
      { issuer: 'https://git.example.com/login/oauth', apiUrl: 'https://git.example.com/api/v3' },
    ])
  })

  test.each<[string, Record<string, string>]>([
    ['GOOGLE_CLIENT_SECRET must be set too', { GOOGLE_CLIENT_ID: 'id' }],
    ['GOOGLE_CLIENT_ID must be set too', { GOOGLE_CLIENT_SECRET: 'secret' }],
    ['GITHUB_CLIENT_SECRET must be set too', { GITHUB_CLIENT_ID: 'id' }],
    ['GITHUB_BASE_URL must be an https URL', { GITHUB_BASE_URL: 'http://git.example.com' }],
    [
      'OIDC_ACME_CLIENT_ID and OIDC_ACME_CLIENT_SECRET must be set too',
      { ...acme, OIDC_ACME_CLIENT_ID: '', OIDC_ACME_CLIENT_SECRET: '' },
    ],
    ['OIDC_ACME_ISSUER must be an https URL', { ...acme, OIDC_ACME_ISSUER: '' }],
    ['OIDC_ACME_ISSUER must be an https URL', { ...acme, OIDC_ACME_ISSUER: 'http://login.acme.example' }],
    ['OIDC_ACME_ISSUER must be an https URL', { ...acme, OIDC_ACME_ISSUER: 'https://login.acme.example/?tenant=1' }],
    ['OIDC_ACME_ISSUER must be an https URL', { ...acme, OIDC_ACME_ISSUER: 'https://a:b@login.acme.example' }],
    ['OIDC_PROVIDERS must name each provider once', { ...acme, OIDC_PROVIDERS: 'acme,acme' }],
    ['OIDC_PROVIDERS holds "google"', { OIDC_PROVIDERS: 'google' }],
    ['OIDC_PROVIDERS holds "Acme"', { OIDC_PROVIDERS: 'Acme' }],
    ['RETURN_TO_URLS holds "http://app.example.com"', { RETURN_TO_URLS: 'http://app.example.com' }],
    ['RETURN_TO_URLS must be set', { ...google, RETURN_TO_URLS: '' }],
    ['PUBLIC_URL must be set', { ...google, PUBLIC_URL: '' }],
  ])('%s', (start, env) => {
    const problems = problemsOf({ ...usual, ...env })
    expect(problems.filter((problem) => problem.startsWith(start)).length).toBeGreaterThan(0)
  })

  test('no problem names a secret', () => {
    expect(
      problemsOf({ ...usual, ...acme, OIDC_ACME_ISSUER: '', OIDC_ACME_CLIENT_SECRET: 'hush' }).join(),
    ).not.toContain('hush')
  })
})

describe('a URL to return to', () => {
  test.each([
    'https://app.example.com/signed-in',
    'https://app.example.com/signed-in?from=velro',
    'http://localhost:5173/signed-in',
    'http://127.0.0.1:8080/',
    'http://[::1]:8080/',
    'com.example.app:/signed-in',
    'com.example.app://signed-in',
  ])('%s is accepted', (url) => {
    expect(isReturnUrl(url)).toBe(true)
  })

  test.each([
    'http://app.example.com/',
    'http://localhost.evil.example/',
    'http://127.0.0.1.evil.example/',
    'https://app.example.com/#signed-in',
    'https://user@app.example.com/',
    'https://:password@app.example.com/',
    'javascript:alert(1)',
    'data:text/html,x',
    'file:///etc/passwd',
    'app:/signed-in',
    '/signed-in',
    '//app.example.com',
    '',
    `https://app.example.com/${'a'.repeat(512)}`,
  ])('%s is refused', (url) => {
    expect(isReturnUrl(url)).toBe(false)
  })
})
