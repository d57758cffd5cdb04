import { emailPattern } from '../../http/schema-types.ts'
import { canonicalEmail } from '../../kit/email.ts'
import {
  type AuthorizationRequest,
  type Checks,
  type IdentityClaims,
  type OauthClient,
  type OpenIdClient,
  ProviderFailed,
  type ReadResource,
} from '../../platform/identity-provider.ts'
import type { IdentityProviderSettings } from './settings.ts'

/** A person as a provider knows them. `issuer` and `subject` together never mean another person. */
export type ProvenIdentity = {
  readonly issuer: string
  readonly subject: string
  /** An address that the provider has verified. Undefined: it said of none that it is. */
  readonly verifiedEmail: string | undefined
  readonly displayName: string | undefined
  /** When the person authenticated at the provider. Undefined: it did not say. */
  readonly authenticatedAtMs: number | undefined
}

export type ProviderClient = {
  readonly settings: IdentityProviderSettings
  authorizationUrl(request: AuthorizationRequest, signal: AbortSignal): Promise<string>
  /** Rejects with `ProviderFailed`. */
  identify(callback: URL, checks: Checks, signal: AbortSignal): Promise<ProvenIdentity>
}

/** Makes the clients of the configured providers. The library is loaded only where there are any. */
export type ProviderLibrary = {
  createOpenIdClient(settings: IdentityProviderSettings): OpenIdClient
  createOauthClient(
    settings: IdentityProviderSettings & { readonly authorizationEndpoint: string; readonly tokenEndpoint: string },
  ): OauthClient
}

const maxSubjectLength = 255
const maxNameLength = 100
/** Controls, line breaks, and characters that change the direction of text: they would deceive the readers of a name. */
const unsafeInNames = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu

const toDisplayName = (name: unknown): string | undefined => {
  if (typeof name !== 'string') return undefined
  const cleaned = name.slice(0, 1_000).replace(unsafeInNames, '').replace(/\s+/g, ' ').trim()
  // No half of a character that takes two units.
  return cleaned.slice(0, maxNameLength).replace(/[\uD800-\uDBFF]$/, '') || undefined
}

const emailExpression = new RegExp(emailPattern)
const isEmail = (value: unknown): value is string =>
  typeof value === 'string' && emailExpression.test(value) && canonicalEmail(value) !== undefined

const requireSubject = (subject: string): string => {
  if (subject.length > 0 && subject.length <= maxSubjectLength && /^[\x20-\x7e]+$/.test(subject)) return subject
  throw new ProviderFailed('refused', `the subject must be 1 to ${maxSubjectLength} ASCII characters`)
}

/** Some providers send the text `true`. */
const isVerified = (claim: unknown): boolean => claim === true || claim === 'true'

const toIdentity = ({ email, emailVerified, name, subject, ...rest }: IdentityClaims): ProvenIdentity => ({
  issuer: rest.issuer,
  subject: requireSubject(subject),
  verifiedEmail: isVerified(emailVerified) && isEmail(email) ? email : undefined,
  displayName: toDisplayName(name),
  authenticatedAtMs: rest.authenticatedAtMs,
})

const githubHeaders = {
  accept: 'application/vnd.github+json',
  'x-github-api-version': '2022-11-28',
  'user-agent': 'velro',
} as const

type GithubUser = { readonly id?: unknown; readonly name?: unknown; readonly login?: unknown }
type GithubEmail = { readonly email?: unknown; readonly primary?: unknown; readonly verified?: unknown }

/** Undefined where the person, or the app in GitHub, keeps the addresses from us. */
const findPrimaryEmail = async (read: ReadResource, apiUrl: string): Promise<GithubEmail | undefined> => {
  try {
    const emails = await read(`${apiUrl}/user/emails?per_page=100`, githubHeaders)
    return Array.isArray(emails) ? (emails as GithubEmail[]).find(({ primary }) => primary === true) : undefined
  } catch (error) {
    if (error instanceof ProviderFailed && error.reason === 'refused') return undefined
    throw error
  }
}

/** GitHub's user, by the id that stays when a login is renamed or reused, and its primary address. */
const readGithubUser = async (
  read: ReadResource,
  { issuer, apiUrl = '' }: IdentityProviderSettings,
): Promise<ProvenIdentity> => {
  const [user, email] = await Promise.all([
    read(`${apiUrl}/user`, githubHeaders) as Promise<GithubUser | null>,
    findPrimaryEmail(read, apiUrl),
  ])
  const id = user?.id
  if (typeof id !== 'number' || !Number.isSafeInteger(id) || id <= 0)
    throw new ProviderFailed('refused', 'GitHub sent a user without an id')
  return toIdentity({
    issuer,
    subject: String(id),
    email: email?.email,
    emailVerified: email?.verified,
    name: user?.name ?? user?.login,
    authenticatedAtMs: undefined,
  })
}

const createGithubClient = (settings: IdentityProviderSettings, library: ProviderLibrary): ProviderClient => {
  const oauth = library.createOauthClient({
    ...settings,
    authorizationEndpoint: `${settings.issuer}/authorize`,
    tokenEndpoint: `${settings.issuer}/access_token`,
  })
  return {
    settings,
    authorizationUrl: async (request) => oauth.authorizationUrl(request, 'read:user user:email'),
    identify: async (callback, checks, signal) =>
      readGithubUser(await oauth.exchange(callback, checks, signal), settings),
  }
}

const createOpenIdProvider = (settings: IdentityProviderSettings, library: ProviderLibrary): ProviderClient => {
  const openId = library.createOpenIdClient(settings)
  return {
    settings,
    authorizationUrl: openId.authorizationUrl,
    identify: async (callback, checks, signal) => toIdentity(await openId.exchange(callback, checks, signal)),
  }
}

/** The configured providers by id. */
export const createProviderClients = (
  providers: readonly IdentityProviderSettings[],
  library: ProviderLibrary,
): ReadonlyMap<string, ProviderClient> =>
  new Map(
    providers.map((settings) => {
      const create = settings.kind === 'github' ? createGithubClient : createOpenIdProvider
      return [settings.id, create(settings, library)]
    }),
  )
