import { availableParallelism } from 'node:os'

/** What the environment says, read once. Every name is documented in the README's table. */
export type Config = {
  readonly host: string
  readonly port: number
  readonly databaseUrl: string | undefined
  /** Where the embedded Postgres and its secret live when `databaseUrl` is not given. */
  readonly dataDirectory: string
  /** Connections this process may hold; undefined takes what the server allows. */
  readonly dbConnections: number | undefined
  /** Root of every derived key. Undefined only with the embedded Postgres, which keeps one beside its data. */
  readonly secret: string | undefined
  readonly issuer: string
  readonly audience: string
  /** Where clients reach this service. Undefined: where a request says it was sent. */
  readonly publicUrl: string | undefined
  readonly corsOrigins: readonly string[]
  /** Peers whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: readonly string[]
  readonly hashWorkers: number
  readonly hashQueue: number
  readonly l1MaxEntries: number
  readonly l1TtlMs: number
  readonly accessTokenTtlMs: number
  readonly requestTimeoutMs: number
  readonly drainMs: number
  readonly logLevel: LogLevel
}

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

/** Everything that is wrong with the environment, in one report. */
export class ConfigRefused extends Error {
  override readonly name = 'ConfigRefused'
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(`The configuration was refused:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`)
    this.problems = problems
  }
}

type Environment = Readonly<Record<string, string | undefined>>

const isOrigin = (text: string) => {
  try {
    return new URL(text).origin === text
  } catch {
    return false
  }
}

/** Reads the environment; throws `ConfigRefused` with all problems at once. An empty variable counts as unset. */
export const parseConfig = (env: Environment): Config => {
  const problems: string[] = []
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

  const databaseUrl = text('DATABASE_URL')
  if (databaseUrl !== undefined && !/^postgres(ql)?:\/\/./.test(databaseUrl)) {
    problems.push('DATABASE_URL must start with postgres:// or postgresql://')
  }
  const secret = text('SECRET')
  if (secret !== undefined && secret.length < 32) problems.push('SECRET must have at least 32 characters')
  if (secret === undefined && databaseUrl !== undefined) {
    problems.push('SECRET must be set when DATABASE_URL is, the same on every instance (openssl rand -hex 32)')
  }
  const publicUrl = text('PUBLIC_URL')
  if (publicUrl !== undefined && !(isOrigin(publicUrl) && /^https?:/.test(publicUrl))) {
    problems.push('PUBLIC_URL must be an origin such as https://api.example.com')
  }

  const config: Config = {
    host: text('HOST') ?? '0.0.0.0',
    port: integer('PORT', 3000, 0, 65_535),
    databaseUrl,
    dataDirectory: text('DATA_DIR') ?? '.velro',
    dbConnections: integer('DB_CONNECTIONS', undefined, 6, 10_000),
    secret,
    issuer: text('TOKEN_ISSUER') ?? 'velro',
    audience: text('TOKEN_AUDIENCE') ?? 'velro',
    publicUrl,
    corsOrigins: list('CORS_ORIGINS', isOrigin, 'an origin such as https://app.example.com'),
    trustedProxies: list('TRUSTED_PROXIES', (item) => /^[0-9a-f.:]+$/i.test(item), 'an IP address'),
    hashWorkers: integer('HASH_WORKERS', Math.max(1, availableParallelism() - 1), 1, 64),
    hashQueue: integer('HASH_QUEUE', 128, 1, 10_000),
    l1MaxEntries: integer('L1_MAX_ENTRIES', 10_000, 100, 10_000_000),
    l1TtlMs: integer('L1_TTL_SECONDS', 60, 1, 3_600) * 1_000,
    accessTokenTtlMs: integer('ACCESS_TOKEN_SECONDS', 900, 60, 3_600) * 1_000,
    requestTimeoutMs: integer('REQUEST_TIMEOUT_MS', 5_000, 100, 60_000),
    drainMs: integer('DRAIN_SECONDS', 10, 0, 300) * 1_000,
    logLevel: oneOf('LOG_LEVEL', logLevels, 'info'),
  }
  if (problems.length > 0) throw new ConfigRefused(problems)
  return Object.freeze(config)
}
