import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import {
  type IdentityProviderSettings,
  isProviderId,
  isReturnUrl,
  providerIdExample,
  readIdentityProviders,
  returnUrlExample,
} from './identity/identity-providers/settings.ts'
import { isAddressRange, isHopCount } from './kit/client-address.ts'
import { canonicalEmail } from './kit/email.ts'
import { isId } from './kit/id.ts'
import { isOriginPattern, namedOrigins } from './kit/origin.ts'
import { checkVariables } from './limits/misspelt-variables.ts'
import { type Policy, readPolicy } from './limits/policy.ts'
import { type MailSettings, readMail } from './mail/settings.ts'
import { type Environment, parseConnectionUrl } from './platform/connection-url.ts'
import { findCpuQuota } from './platform/cpu-quota.ts'
import { readSiem, type SiemSettings } from './siem/settings.ts'

/** The configuration, read once from the environment. The README documents every variable. */
export type Config = {
  /** Undefined: every address of the machine. */
  readonly host: string | undefined
  readonly port: number
  /** How many processes serve on the port. 1: this process alone; more: this process starts and supervises them. */
  readonly processes: number
  readonly databaseUrl: string | undefined
  /** Undefined: no Redis. Every route works; cache misses go to Postgres. */
  readonly redisUrl: string | undefined
  /** Directory of the embedded Postgres and its secret, used when `databaseUrl` is undefined. */
  readonly dataDirectory: string
  /** Most database connections of one process. Undefined: its share of those that the server allows. */
  readonly dbConnections: number | undefined
  /** Every key is derived from it. Undefined only with the embedded Postgres, whose secret is stored beside its data. */
  readonly secret: string | undefined
  /** Values that were made under it are read, and none are made. Undefined: `secret` has not changed lately. */
  readonly previousSecret: string | undefined
  /** Canonical e-mail address of the account that the start makes an operator. */
  readonly adminEmail: string | undefined
  readonly issuer: string
  readonly audience: string
  /** Origin at which clients reach this service. Undefined: the origin of each request. */
  readonly publicUrl: string | undefined
  /** Origins whose pages may call the API; see `createOriginMatcher`. */
  readonly corsOrigins: readonly string[]
  /** Where browsers may return to after a sign-in elsewhere, to the letter. */
  readonly returnTo: readonly string[]
  readonly identityProviders: readonly IdentityProviderSettings[]
  /** `none`: pages of another site may use the cookies of a session too, where their origin is named in `corsOrigins`. */
  readonly cookieSameSite: SameSite
  /** Undefined: there are no passkeys. */
  readonly passkeys: PasskeyConfig | undefined
  /** Name of the service in authenticator apps and passkey dialogs. */
  readonly serviceName: string
  readonly authzenAliases: readonly AuthzenAlias[]
  /** Addresses and ranges of the proxies whose `X-Forwarded-For` is trusted, or one number: how many every request passes. */
  readonly trustedProxies: readonly string[]
  /** Monitor: budgets are counted and logged, and nothing is refused. Off: budgets are not counted. */
  readonly limits: LimitMode
  /** Monitor: requests are compared with the sessions that they carry, and nothing is refused. Off: they are not compared. */
  readonly securityContext: SecurityContextMode
  /** The percentage of users for whom `enforce` refuses; the others are monitored. */
  readonly securityContextRollout: number
  /** Databases in the mmdb format. Undefined: the one that is installed with Velro. */
  readonly geoipCountryFile: string | undefined
  /** Undefined: networks are ranges of addresses, and not autonomous systems. */
  readonly geoipSystemFile: string | undefined
  /** Budgets and quotas, by plan. */
  readonly policy: Policy
  /** Monitor: anomalies open incidents, and limit nobody. Off: nothing is looked at. */
  readonly anomaly: AnomalyMode
  /** Directory of the media objects, used when `s3` is undefined. */
  readonly mediaDirectory: string
  /** Undefined: media objects are stored on disk. */
  readonly s3: S3Config | undefined
  /** Least length of a new password, in code points. */
  readonly passwordMinLength: number
  /** Words that count for nothing in a new password, beside the name of the product and those of the address. */
  readonly passwordWords: readonly string[]
  /** Of a service that knows breached passwords by k-anonymity, without the slash at its end. Undefined: none is asked. */
  readonly passwordBreachUrl: string | undefined
  readonly hashWorkers: number
  readonly hashQueue: number
  readonly renderWorkers: number
  readonly renderQueue: number
  /** Most generations that this process runs at once. 0: it runs no jobs. */
  readonly jobConcurrency: number
  /** Longest that a generation may run, counted from its first attempt. */
  readonly generationTimeoutMs: number
  readonly l1MaxEntries: number
  readonly l1MaxBytes: number
  readonly l1TtlMs: number
  /** How long stale reads continue while Postgres is down, after the lease has ended. 0: never. */
  readonly staleReadMs: number
  /** For the connection that listens, which must not go through a pooler. Undefined: `databaseUrl`. */
  readonly databaseBusUrl: string | undefined
  /** Off: a change does not wait for the acknowledgements of the other instances. */
  readonly acknowledgements: 'on' | 'off'
  /** Credits that a new account gets. */
  readonly welcomeCredits: number
  readonly welcomeAfter: (typeof welcomeTimes)[number]
  /** Most accounts of one address that get them on one day. 0: no limit. */
  readonly welcomeAccountsPerAddress: number
  readonly accessTokenTtlMs: number
  readonly requestTimeoutMs: number
  /** How long audit events are kept, to the end of their month. */
  readonly auditRetentionMs: number
  /** Undefined: the models of fal.ai are not available. */
  readonly falKey: string | undefined
  readonly falQueueUrl: string
  /** Domains, with their subdomains, from which outputs are fetched. */
  readonly falOutputHosts: readonly string[]
  /** Undefined: the models of OpenAI are not available. */
  readonly openaiKey: string | undefined
  readonly openaiBaseUrl: string
  /** Empty: only outputs inside a response are accepted, none are fetched. */
  readonly openaiOutputHosts: readonly string[]
  /** Receivers in our own network that webhooks of operators may reach, each as `host:port`. */
  readonly webhookInternalHosts: readonly string[]
  /** Undefined: this deployment sends no mail. */
  readonly mail: MailSettings | undefined
  /** Where the audit log is sent. Undefined: it stays in the database. */
  readonly siem: SiemSettings | undefined
  /** Whether an account can sign in only once its e-mail address is verified. Needs mail. */
  readonly requireVerifiedEmail: boolean
  /** How long the instance serves after it has stopped being ready. */
  readonly drainDelayMs: number
  readonly drainMs: number
  readonly logLevel: LogLevel
  /** One of this many successful requests has a line in the access log. 0: there is none. */
  readonly accessLogEvery: number
  /** What of the configuration has no effect, one line each, for the start to report. */
  readonly notes: readonly string[]
}

export type S3Config = {
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

/** The domain that passkeys are bound to, and the origins of the pages that may use them. */
export type PasskeyConfig = { readonly id: string; readonly origins: readonly string[] }

/** A type and an id of AuthZEN requests that stand for a user or a resource here. */
export type AuthzenAlias = {
  readonly type: string
  readonly id: string
  readonly target: { readonly type: (typeof aliasTargets)[number]; readonly id: string }
}

const aliasTargets = ['user', 'project', 'generation', 'media'] as const
/** One batch of decisions covers all aliases of a type. */
const maxAliases = 200

/** When a new account gets its credits. */
export const welcomeTimes = ['registration', 'verification'] as const

export const sameSites = ['lax', 'none'] as const
export type SameSite = (typeof sameSites)[number]

export const limitModes = ['on', 'monitor', 'off'] as const
export type LimitMode = (typeof limitModes)[number]

export const securityContextModes = ['off', 'monitor', 'enforce'] as const
export type SecurityContextMode = (typeof securityContextModes)[number]

export const anomalyModes = ['off', 'monitor', 'enforce'] as const
export type AnomalyMode = (typeof anomalyModes)[number]

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

/** The environment has errors: all of them, not only the first. */
export class ConfigRefused extends Error {
  override readonly name = 'ConfigRefused'
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(`Invalid configuration:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`)
    this.problems = problems
  }
}

export const maxAccessTokenTtlMs = 3_600_000

const isOrigin = (text: string) => {
  try {
    return new URL(text).origin === text
  } catch {
    return false
  }
}

const originExample = 'an origin such as https://app.example.com, https://*.example.com or capacitor://localhost'

const isWebOrigin = (text: string) => isOrigin(text) && /^https?:/.test(text)

/** Undefined for text that is not an alias such as `user:alice=user:<UUID>`. A type of ours only stands for itself. */
const readAlias = (text: string): AuthzenAlias | undefined => {
  const [, type = '', id = '', targetType = '', targetId = ''] =
    /^([a-z][a-z0-9_-]{0,63}):([\x21-\x7e]{1,128})=([a-z]+):([^:]*)$/.exec(text) ?? []
  const known = aliasTargets.find((target) => target === targetType)
  const isOurs = aliasTargets.some((target) => target === type)
  if (known === undefined || !isId(targetId) || isId(id.toLowerCase())) return undefined
  if (type !== known && (isOurs || known === 'user')) return undefined
  return { type, id, target: { type: known, id: targetId } }
}

const isAlias = (text: string) => readAlias(text) !== undefined
const aliasExample = 'an alias such as user:alice=user:UUID or record:record-1=project:UUID'

/** The valid ones among the items. Adds to `problems` where they do not stand for each other one to one. */
const readAliases = (items: readonly string[], problems: string[]): readonly AuthzenAlias[] => {
  const aliases = items.flatMap((item) => readAlias(item) ?? [])
  if (aliases.length > maxAliases) problems.push(`AUTHZEN_ALIASES must hold at most ${maxAliases} aliases`)
  for (const part of ['alias', 'target'] as const) {
    const names = aliases.map(({ type, id, target }) => `${type}:${part === 'alias' ? id : target.id}`)
    const twice = names.find((each, at) => names.indexOf(each) < at)
    if (twice !== undefined)
      problems.push(`AUTHZEN_ALIASES must hold each ${part} of a type once, but holds ${twice} twice`)
  }
  return Object.freeze(aliases)
}

const isPasswordWord = (text: string) => /^.{3,64}$/u.test(text)

const isTrustedProxy = (item: string) => isAddressRange(item) || isHopCount(item)
const trustedProxyExample = 'an IP address, a range such as 10.0.0.0/8, or a number of proxies from 1 to 16'

const readTrustedProxies = (items: readonly string[], problems: string[]): readonly string[] => {
  if (items.length > 1 && items.some(isHopCount))
    problems.push('TRUSTED_PROXIES must be one number of proxies, or addresses and ranges, not both')
  return items
}

/** A URL to which paths are appended. */
const isBaseUrl = (text: string) => {
  const url = URL.parse(text)
  return (
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    url.href.replace(/\/$/, '') === url.origin + url.pathname.replace(/\/$/, '')
  )
}

const isHostName = (text: string) =>
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$/.test(text)

/** A host and a port, as a URL has them. */
const isHostAndPort = (text: string) => {
  const url = URL.parse(`http://${text}`)
  const isWhole = url !== null && (url.host === text || `${url.host}:80` === text)
  return isWhole && /:\d+$/.test(text)
}

const isRedisUrl = (text: string) => {
  try {
    const { pathname, username, password } = new URL(text)
    decodeURIComponent(username + password)
    return /^rediss?:\/\/./.test(text) && /^\/?\d*$/.test(pathname)
  } catch {
    return false
  }
}

/** Undefined: no S3 is configured. Adds a problem for each variable that is missing or wrong. */
const readS3 = (text: (name: string) => string | undefined, problems: string[]): S3Config | undefined => {
  const given = {
    S3_ENDPOINT: text('S3_ENDPOINT'),
    S3_REGION: text('S3_REGION'),
    S3_BUCKET: text('S3_BUCKET'),
    S3_ACCESS_KEY_ID: text('S3_ACCESS_KEY_ID'),
    S3_SECRET_ACCESS_KEY: text('S3_SECRET_ACCESS_KEY'),
  }
  const missing = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [name] : []))
  if (missing.length === Object.keys(given).length) return undefined
  if (missing.length > 0)
    problems.push(`${missing.join(', ')} must be set too: S3 needs all five S3_ variables, or none`)
  const { S3_ENDPOINT: endpoint = '', S3_REGION: region = '', S3_BUCKET: bucket = '' } = given
  const { S3_ACCESS_KEY_ID: accessKeyId = '', S3_SECRET_ACCESS_KEY: secretAccessKey = '' } = given
  if (endpoint !== '' && !isWebOrigin(endpoint)) {
    problems.push('S3_ENDPOINT must be an origin such as https://s3.eu-central-1.amazonaws.com, without the bucket')
  }
  if (bucket !== '' && !/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket)) {
    problems.push('S3_BUCKET must be the name of a bucket: 3 to 63 of a-z, 0-9, "." and "-"')
  }
  return Object.freeze({ endpoint, region, bucket, accessKeyId, secretAccessKey })
}

const readSecrets = (text: (name: string) => string | undefined, problems: string[], notes: string[]) => {
  const secrets = { SECRET: text('SECRET'), SECRET_PREVIOUS: text('SECRET_PREVIOUS') }
  for (const [name, value] of Object.entries(secrets))
    if (value !== undefined && value.length < 32) problems.push(`${name} must have at least 32 characters`)
  const { SECRET: secret, SECRET_PREVIOUS: previousSecret } = secrets
  if (previousSecret !== undefined && previousSecret === secret)
    notes.push('SECRET_PREVIOUS is the same as SECRET, and has no effect')
  return { secret, previousSecret }
}

type ReadList = (name: string, accepts: (item: string) => boolean, what: string) => readonly string[]

const readSignInElsewhere = (
  text: (name: string) => string | undefined,
  list: ReadList,
  publicUrl: string | undefined,
  problems: string[],
): Pick<Config, 'returnTo' | 'identityProviders'> => {
  const returnTo = list('RETURN_TO_URLS', isReturnUrl, returnUrlExample)
  const others = list('OIDC_PROVIDERS', isProviderId, providerIdExample).map((id) => {
    const variable = (name: string) => text(`OIDC_${id.toUpperCase()}_${name}`)
    return {
      id,
      issuer: variable('ISSUER'),
      clientId: variable('CLIENT_ID'),
      clientSecret: variable('CLIENT_SECRET'),
      name: variable('NAME'),
    }
  })
  const variables = {
    google: { clientId: text('GOOGLE_CLIENT_ID'), clientSecret: text('GOOGLE_CLIENT_SECRET') },
    github: {
      clientId: text('GITHUB_CLIENT_ID'),
      clientSecret: text('GITHUB_CLIENT_SECRET'),
      baseUrl: text('GITHUB_BASE_URL'),
    },
    others,
  }
  return { returnTo, identityProviders: readIdentityProviders(variables, { publicUrl, returnTo }, problems) }
}

/** Whether pages of an origin may use passkeys of a domain: browsers demand https, except on localhost. */
const isOriginOf = (domain: string, origin: string): boolean => {
  if (!isWebOrigin(origin) || origin.includes('*')) return false
  const { protocol, hostname } = new URL(origin)
  const isSecure = protocol === 'https:' || hostname === 'localhost' || hostname.endsWith('.localhost')
  return isSecure && (hostname === domain || hostname.endsWith(`.${domain}`))
}

/**
 * Undefined: no domain is configured. `preset` is the domain where none is given. Without PASSKEY_ORIGINS, pages may use passkeys
 * at the origin of the domain itself, and at those of `corsOrigins` that belong to it.
 */
const readPasskeys = (
  text: (name: string) => string | undefined,
  { preset, corsOrigins, port }: { preset: string | undefined; corsOrigins: readonly string[]; port: number },
  problems: string[],
): PasskeyConfig | undefined => {
  const items = (text('PASSKEY_ORIGINS') ?? '').split(',').map((item) => item.trim())
  const given = items.filter((item) => item !== '')
  const id = text('PASSKEY_DOMAIN') ?? preset
  if (id === undefined) {
    if (given.length > 0) problems.push('PASSKEY_DOMAIN must be set too, because PASSKEY_ORIGINS is')
    return undefined
  }
  if (id !== 'localhost' && !isHostName(id)) {
    problems.push('PASSKEY_DOMAIN must be a domain such as example.com, in lower case, or localhost')
    return undefined
  }
  for (const origin of given.filter((item) => !isOriginOf(id, item)))
    problems.push(
      `PASSKEY_ORIGINS holds "${origin}", which is not an origin such as https://app.${id}, without a slash at its end`,
    )
  const own = id === 'localhost' ? `http://localhost:${port}` : `https://${id}`
  const origins = given.length > 0 ? given : [own, ...corsOrigins.filter((origin) => isOriginOf(id, origin))]
  return Object.freeze({ id, origins: Object.freeze([...new Set(origins)]) })
}

/** A misspelt figure would silently leave its default in force. */
const checkFigures = (env: Environment, problems: string[], notes: string[]): void => {
  const { misspelt, foreign } = checkVariables(Object.keys(env).filter((name) => env[name]?.trim()))
  for (const { name, nearest } of misspelt) problems.push(`${name} is not a setting; set ${nearest} instead`)
  for (const name of foreign) notes.push(`${name} is not a setting of Velro, and has no effect`)
}

/** Of each process: the cores for hashing, and those that requests leave. */
const countCores = (processes: number) => {
  const quota = findCpuQuota()
  const cores = Math.floor(Math.min(availableParallelism(), quota ?? Number.POSITIVE_INFINITY))
  const spareCores = Math.floor((cores - 1) / processes)
  /** Hashing has low priority, which does not help under a quota: it is used up for all threads at once. */
  const hashCores = quota === undefined ? Math.floor(cores / processes) : spareCores
  return { hashCores, spareCores }
}

const readBaseUrl = (name: string, given: string, problems: string[]) => {
  if (!isBaseUrl(given)) problems.push(`${name} must be an http or https URL without a query or a fragment`)
  return given.replace(/\/+$/, '')
}

/** The providers of models. */
const readProviders = (
  text: (name: string) => string | undefined,
  list: (name: string, accepts: (item: string) => boolean, what: string) => readonly string[],
  problems: string[],
) => {
  const key = (name: string, given: string | undefined) => {
    if (given !== undefined && !/^[\x21-\x7e]+$/.test(given))
      problems.push(`${name} must be printable ASCII without spaces`)
    return given
  }
  const falOutputHosts = list('FAL_OUTPUT_HOSTS', isHostName, 'a domain such as fal.media, in lower case')
  return {
    falKey: key('FAL_KEY', text('FAL_KEY')),
    falQueueUrl: readBaseUrl('FAL_QUEUE_URL', text('FAL_QUEUE_URL') ?? 'https://queue.fal.run', problems),
    falOutputHosts: falOutputHosts.length > 0 ? falOutputHosts : Object.freeze(['fal.media']),
    openaiKey: key('OPENAI_API_KEY', text('OPENAI_API_KEY')),
    openaiBaseUrl: readBaseUrl('OPENAI_BASE_URL', text('OPENAI_BASE_URL') ?? 'https://api.openai.com/v1', problems),
    openaiOutputHosts: list('OPENAI_OUTPUT_HOSTS', isHostName, 'a domain such as images.example.com, in lower case'),
  }
}

/** What finds requests that do not fit their sessions or their principals. */
const readDetection = (
  text: (name: string) => string | undefined,
  oneOf: <T extends string>(name: string, values: readonly T[], fallback: T) => T,
) => ({
  securityContext: oneOf('SECURITY_CONTEXT', securityContextModes, 'monitor'),
  geoipCountryFile: text('GEOIP_COUNTRY_DB'),
  geoipSystemFile: text('GEOIP_ASN_DB'),
  anomaly: oneOf('ANOMALY', anomalyModes, 'monitor'),
})

/** Durations in seconds or days, which no other variable depends on. */
const readDurations = (integer: (name: string, preset: number, min: number, max: number) => number) => ({
  drainDelayMs: integer('DRAIN_DELAY_SECONDS', 0, 0, 300) * 1_000,
  drainMs: integer('DRAIN_SECONDS', 10, 0, 300) * 1_000,
  auditRetentionMs: integer('AUDIT_RETENTION_DAYS', 400, 31, 36_500) * 86_400_000,
})

/** Reads the environment; throws `ConfigRefused` with all problems at once. An empty variable counts as unset. */
export const parseConfig = (env: Environment): Config => {
  const problems: string[] = []
  const notes: string[] = []
  const text = (name: string) => env[name]?.trim() || undefined
  const integer = <D extends number | undefined>(name: string, fallback: D, min: number, max: number): number | D => {
    const given = text(name)
    if (given === undefined) return fallback
    const value = Number(given)
    if (Number.isInteger(value) && value >= min && value <= max) return value
    problems.push(`${name} must be a whole number from ${min} to ${max}, not "${given}"`)
    return fallback
  }
  const list = (name: string, accepts: (item: string) => boolean, what: string) => {
    const items = (text(name) ?? '')
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
    for (const item of items) if (!accepts(item)) problems.push(`${name} holds "${item}", which is not ${what}`)
    return Object.freeze(items)
  }
  const oneOf = <T extends string>(name: string, values: readonly T[], fallback: T): T => {
    const given = text(name)
    const value = values.find((candidate) => candidate === given)
    if (given !== undefined && value === undefined) problems.push(`${name} must be one of ${values.join(', ')}`)
    return value ?? fallback
  }

  const postgresUrl = (name: string, given: string | undefined) => {
    if (given === undefined) return undefined
    const parsed = parseConnectionUrl(given, env)
    problems.push(...parsed.problems.map((problem) => `${name} ${problem}`))
    notes.push(...parsed.notes.map((note) => `${name} ${note}`))
    return given
  }

  const databaseUrl = postgresUrl('DATABASE_URL', text('DATABASE_URL'))
  const redisUrl = text('REDIS_URL')
  if (redisUrl !== undefined && !isRedisUrl(redisUrl)) {
    problems.push(
      'REDIS_URL must be a URL that starts with redis:// or rediss://, whose path is empty or the number of a database',
    )
  }
  const databaseBusUrl = postgresUrl('DATABASE_BUS_URL', text('DATABASE_BUS_URL'))
  const { secret, previousSecret } = readSecrets(text, problems, notes)
  if (secret === undefined && databaseUrl !== undefined) {
    problems.push('SECRET must be set when DATABASE_URL is, to the same value on every instance (openssl rand -hex 32)')
  }
  const publicUrl = text('PUBLIC_URL')
  if (publicUrl !== undefined && !isWebOrigin(publicUrl)) {
    problems.push('PUBLIC_URL must be an origin such as https://api.example.com')
  }
  const dataDirectory = text('DATA_DIR') ?? '.velro'

  const processes = integer('WEB_CONCURRENCY', 1, 1, 64)
  const { hashCores, spareCores } = countCores(processes)
  const adminGiven = text('ADMIN_EMAIL')
  const adminEmail = adminGiven && canonicalEmail(adminGiven)
  if (adminGiven !== undefined && !/^[^\s@]+@[^\s@]+$/.test(adminEmail ?? '')) {
    problems.push('ADMIN_EMAIL must be an e-mail address')
  }

  const corsOrigins = list('CORS_ORIGINS', isOriginPattern, originExample)
  const cookieSameSite = oneOf('COOKIE_SAME_SITE', sameSites, 'lax')
  if (cookieSameSite === 'none' && namedOrigins(corsOrigins).size === 0)
    problems.push('COOKIE_SAME_SITE can only be none where CORS_ORIGINS names an origin without a wildcard')

  checkFigures(env, problems, notes)
  const breachUrl = text('PASSWORD_BREACH_URL')

  /** With a provider that is paid, credits are worth money. */
  const costsMoney = text('FAL_KEY') !== undefined || text('OPENAI_API_KEY') !== undefined

  const port = integer('PORT', 3000, 0, 65_535)
  const requireVerifiedEmail = oneOf('REQUIRE_VERIFIED_EMAIL', ['on', 'off'], 'off') === 'on'
  const mail = readMail(
    text,
    { isDeployment: databaseUrl !== undefined, publicUrl, port, requireVerifiedEmail },
    problems,
  )

  const config: Config = {
    host: text('HOST'),
    port,
    processes,
    databaseUrl,
    redisUrl,
    dataDirectory,
    mediaDirectory: text('MEDIA_DIR') ?? join(dataDirectory, 'media'),
    s3: readS3(text, problems),
    dbConnections: integer('DB_CONNECTIONS', undefined, 6, 10_000),
    secret,
    previousSecret,
    adminEmail,
    issuer: text('TOKEN_ISSUER') ?? 'velro',
    audience: text('TOKEN_AUDIENCE') ?? 'velro',
    publicUrl,
    corsOrigins,
    cookieSameSite,
    passkeys: readPasskeys(
      text,
      { preset: databaseUrl === undefined ? 'localhost' : undefined, corsOrigins, port },
      problems,
    ),
    ...readSignInElsewhere(text, list, publicUrl, problems),
    serviceName: text('SERVICE_NAME') ?? 'Velro',
    authzenAliases: readAliases(list('AUTHZEN_ALIASES', isAlias, aliasExample), problems),
    trustedProxies: readTrustedProxies(list('TRUSTED_PROXIES', isTrustedProxy, trustedProxyExample), problems),
    limits: oneOf('LIMITS', limitModes, 'on'),
    ...readDetection(text, oneOf),
    securityContextRollout: integer('SECURITY_CONTEXT_ROLLOUT', 100, 0, 100),
    policy: readPolicy((name, fallback, max) => integer(name, fallback, 1, max)),
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    passwordWords: list('PASSWORD_WORDS', isPasswordWord, 'a word of 3 to 64 characters'),
    passwordBreachUrl: breachUrl === undefined ? undefined : readBaseUrl('PASSWORD_BREACH_URL', breachUrl, problems),
    hashWorkers: integer('HASH_WORKERS', Math.max(1, hashCores), 1, 64),
    hashQueue: integer('HASH_QUEUE', 128, 1, 10_000),
    renderWorkers: integer('RENDER_WORKERS', Math.max(1, spareCores), 1, 64),
    renderQueue: integer('RENDER_QUEUE', 64, 1, 10_000),
    jobConcurrency: integer('JOB_CONCURRENCY', 2, 0, 64),
    generationTimeoutMs: integer('GENERATION_TIMEOUT_SECONDS', 1_500, 1, 3_600) * 1_000,
    l1MaxEntries: integer('L1_MAX_ENTRIES', 10_000, 100, 10_000_000),
    l1MaxBytes: integer('L1_MAX_MEGABYTES', 64, 1, 65_536) * 1_048_576,
    staleReadMs: integer('EMERGENCY_READ_SECONDS', 60, 0, 3_600) * 1_000,
    databaseBusUrl,
    acknowledgements: oneOf('ACKNOWLEDGEMENTS', ['on', 'off'], 'on'),
    l1TtlMs: integer('L1_TTL_SECONDS', 60, 1, 3_600) * 1_000,
    welcomeCredits: integer('WELCOME_CREDITS', 1_000, 0, 1_000_000),
    welcomeAfter: oneOf('WELCOME_CREDITS_AFTER', welcomeTimes, costsMoney ? 'verification' : 'registration'),
    welcomeAccountsPerAddress: integer('WELCOME_CREDITS_PER_ADDRESS', costsMoney ? 5 : 0, 0, 1_000_000),
    accessTokenTtlMs: integer('ACCESS_TOKEN_SECONDS', 900, 60, maxAccessTokenTtlMs / 1_000) * 1_000,
    requestTimeoutMs: integer('REQUEST_TIMEOUT_MS', 5_000, 100, 60_000),
    ...readProviders(text, list, problems),
    webhookInternalHosts: list(
      'WEBHOOK_INTERNAL_HOSTS',
      isHostAndPort,
      'a host and a port such as billing.internal:8080, in lower case',
    ),
    mail,
    siem: readSiem(text, problems, notes),
    requireVerifiedEmail,
    ...readDurations(integer),
    logLevel: oneOf('LOG_LEVEL', logLevels, 'info'),
    accessLogEvery: integer('ACCESS_LOG_EVERY', 100, 0, 1_000_000),
    notes: Object.freeze(notes),
  }
  if (problems.length > 0) throw new ConfigRefused(problems)
  return Object.freeze(config)
}
