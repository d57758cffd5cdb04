/** An identity provider, by configuration. */
export type IdentityProviderSettings = {
  /** Part of its paths, and of the address to which it sends the browser back. */
  readonly id: string
  /** As people know it. */
  readonly name: string
  readonly kind: 'openid' | 'github'
  readonly issuer: string
  readonly clientId: string
  readonly clientSecret: string
  /** Base URL of its API, for GitHub. */
  readonly apiUrl: string | undefined
  /** The `prompt` that has people authenticate again. */
  readonly reauthenticationPrompt: string
}

type Credentials = { readonly clientId: string | undefined; readonly clientSecret: string | undefined }

export type IdentityProviderVariables = {
  readonly google: Credentials
  readonly github: Credentials & { readonly baseUrl: string | undefined }
  readonly others: readonly (Credentials & {
    readonly id: string
    readonly issuer: string | undefined
    readonly name: string | undefined
  })[]
}

const googleIssuer = 'https://accounts.google.com'
const githubUrl = 'https://github.com'
const githubApiUrl = 'https://api.github.com'

const presets = ['google', 'github']

export const isProviderId = (text: string): boolean => /^[a-z][a-z0-9_]{0,31}$/.test(text) && !presets.includes(text)
export const providerIdExample = 'a name such as acme: a-z, 0-9 and _, at most 32 characters, not google or github'

/** Hosts that a request reaches without a network. */
const isLoopback = ({ hostname }: URL): boolean => /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(hostname)

const maxUrlLength = 512

/** A URL of a page or of an app (RFC 8252), to which people return with a code: an exact one, without a fragment. */
export const isReturnUrl = (text: string): boolean => {
  const url = URL.parse(text)
  if (url === null || text.length > maxUrlLength || text.includes('#') || url.username !== '' || url.password !== '')
    return false
  if (url.protocol === 'https:') return true
  if (url.protocol === 'http:') return isLoopback(url)
  // A scheme of an app names a domain of its maker in reverse, so it has a dot, which no scheme of a browser has.
  return /^[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+:$/.test(url.protocol)
}
export const returnUrlExample =
  'a URL without a fragment, of at most 512 characters, such as https://app.example.com/signed-in or com.example.app:/signed-in'

/** The identifier of a provider: https, or http on this machine, without a query or a fragment. */
const isIssuer = (text: string): boolean => {
  const url = URL.parse(text)
  if (url === null || /[?#]/.test(text) || url.username !== '' || url.password !== '') return false
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url))
}

const issuerRequirement = 'must be an https URL without a query or a fragment, or http://localhost for tests'

/**
 * The configured providers. Adds to `problems` for each variable that is missing or wrong: a provider is configured whole or not
 * at all.
 */
export const readIdentityProviders = (
  { google, github, others }: IdentityProviderVariables,
  { publicUrl, returnTo }: { readonly publicUrl: string | undefined; readonly returnTo: readonly string[] },
  problems: string[],
): readonly IdentityProviderSettings[] => {
  const read = (prefix: string, { clientId, clientSecret }: Credentials) => {
    const given = { CLIENT_ID: clientId, CLIENT_SECRET: clientSecret }
    const missing = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [`${prefix}_${name}`] : []))
    if (missing.length > 0)
      problems.push(`${missing.join(' and ')} must be set too, to sign in with ${prefix.toLowerCase()}`)
    return { clientId: clientId ?? '', clientSecret: clientSecret ?? '' }
  }
  const isGiven = ({ clientId, clientSecret }: Credentials) => clientId !== undefined || clientSecret !== undefined
  const providers: IdentityProviderSettings[] = []
  if (isGiven(google)) {
    providers.push({
      id: 'google',
      name: 'Google',
      kind: 'openid',
      issuer: googleIssuer,
      ...read('GOOGLE', google),
      apiUrl: undefined,
      // Google knows no `login`.
      reauthenticationPrompt: 'select_account',
    })
  }
  const base = (github.baseUrl ?? githubUrl).replace(/\/+$/, '')
  if (!isIssuer(base)) problems.push(`GITHUB_BASE_URL ${issuerRequirement}`)
  if (isGiven(github)) {
    providers.push({
      id: 'github',
      name: 'GitHub',
      kind: 'github',
      issuer: `${base}/login/oauth`,
      ...read('GITHUB', github),
      apiUrl: base === githubUrl ? githubApiUrl : `${base}/api/v3`,
      reauthenticationPrompt: 'select_account',
    })
  }
  for (const { id, issuer, name, ...credentials } of others) {
    const prefix = `OIDC_${id.toUpperCase()}`
    if (issuer === undefined || !isIssuer(issuer)) problems.push(`${prefix}_ISSUER ${issuerRequirement}`)
    providers.push({
      id,
      name: name ?? id,
      kind: 'openid',
      issuer: issuer ?? '',
      ...read(prefix, credentials),
      apiUrl: undefined,
      reauthenticationPrompt: 'login',
    })
  }
  const ids = providers.map(({ id }) => id)
  if (new Set(ids).size < ids.length) problems.push('OIDC_PROVIDERS must name each provider once')
  if (providers.length > 0 && publicUrl === undefined) {
    problems.push(
      'PUBLIC_URL must be set where people sign in with identity providers, which send their browsers back to it',
    )
  }
  if (providers.length > 0 && returnTo.length === 0)
    problems.push('RETURN_TO_URLS must be set where people sign in with identity providers')
  return Object.freeze(providers)
}
