import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'

export type Environment = Readonly<Record<string, string | undefined>>

/** How the driver uses TLS: options of `tls.connect`, and `prefer` where plain text is accepted from a server without TLS. */
export type TlsOptions = {
  readonly prefer?: boolean
  readonly rejectUnauthorized: boolean
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  readonly passphrase?: string
  readonly checkServerIdentity?: () => undefined
}

/** What the driver needs to connect. It takes user, password and database that are not given from PGUSER and so on. */
export type ConnectionTarget = {
  readonly host: string[]
  readonly port: number[]
  /** The unix socket. Then `host` holds its directory. */
  readonly path?: string
  readonly user?: string
  readonly password?: string
  readonly database?: string
  readonly ssl: false | TlsOptions
  readonly sslnegotiation?: 'direct'
  readonly target_session_attrs?: 'read-write' | 'primary'
  /** Parameters of the startup message, for the server. */
  readonly startup: { readonly options?: string }
}

/** The meaning of a connection URL, a note for each part that is ignored, and the reasons to refuse it. Repeats no value. */
export type ParsedConnectionUrl = {
  readonly target: ConnectionTarget
  readonly notes: readonly string[]
  readonly problems: readonly string[]
}

export class ConnectionUrlRefused extends Error {
  override readonly name = 'ConnectionUrlRefused'
}

const misread =
  'must be a URL that starts with postgres:// or postgresql://; percent-encode special symbols in user and password'

const otherClient = 'it is meant for another client'
const poolSize = 'set DB_CONNECTIONS to limit connections'
const boundedWaits = 'REQUEST_TIMEOUT_MS bounds every wait'
const statements = 'statements are prepared, also through PgBouncer 1.21 or newer'
const keepAlive = 'keep-alive of TCP is always on'

/** Parameters without effect, each with the reason. */
const ignored: ReadonlyMap<string, string> = new Map([
  ['application_name', 'every connection is named after its pool'],
  ['fallback_application_name', 'every connection is named after its pool'],
  ['connect_timeout', 'an attempt to connect may take 3 s'],
  ['connection_limit', poolSize],
  ['pool_size', poolSize],
  ['pool', poolSize],
  ['max', poolSize],
  ['pool_max_conns', poolSize],
  ['pool_min_conns', poolSize],
  ['pool_timeout', boundedWaits],
  ['socket_timeout', boundedWaits],
  ['statement_timeout', 'each pool sets its own'],
  ['lock_timeout', 'each pool sets its own'],
  ['idle_in_transaction_session_timeout', 'each pool sets its own'],
  ['pgbouncer', statements],
  ['statement_cache_size', statements],
  ['prepared_statements', statements],
  ['prepareThreshold', statements],
  ['sslcompression', 'TLS compression is never used'],
  ['sslsni', 'the name of the host is always sent'],
  ['keepalives', keepAlive],
  ['keepalives_idle', keepAlive],
  ['keepalives_interval', keepAlive],
  ['keepalives_count', keepAlive],
  ['tcp_user_timeout', keepAlive],
  ['krbsrvname', 'GSSAPI is not supported'],
  ['gsslib', 'GSSAPI is not supported'],
  ['gssdelegation', 'GSSAPI is not supported'],
  ['load_balance_hosts', 'hosts are tried in the order given'],
  ['single_use_connections', otherClient],
  ['sslaccept', otherClient],
  ['supa', otherClient],
  ['workaround', otherClient],
  ['uselibpqcompat', otherClient],
])

/** Parameters that must have one of these values, which the driver or Velro does anyway. */
const fixed: ReadonlyMap<string, readonly string[]> = new Map([
  ['schema', ['public']],
  ['currentSchema', ['public']],
  ['search_path', ['public']],
  ['client_encoding', ['utf8', 'UTF8', 'UTF-8', 'utf-8', 'auto']],
  ['encoding', ['utf8', 'UTF8', 'UTF-8', 'utf-8', 'unicode']],
  ['gssencmode', ['disable', 'prefer']],
  ['ssl_min_protocol_version', ['TLSv1', 'TLSv1.1', 'TLSv1.2']],
  ['sslcertmode', ['allow', 'disable']],
  ['replication', ['false', 'off', 'no', '0']],
])

const honoured: ReadonlySet<string> = new Set([
  ...['host', 'port', 'user', 'password', 'dbname', 'options', 'target_session_attrs', 'channel_binding'],
  ...['sslmode', 'ssl', 'sslrootcert', 'sslcert', 'sslkey', 'sslpassword', 'sslnegotiation'],
])

const sslModes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full', 'no-verify'] as const
type SslMode = (typeof sslModes)[number]

/** Spellings of other clients for `ssl`. */
const sslAliases: Readonly<Record<string, SslMode>> = { true: 'require', 1: 'require', false: 'disable', 0: 'disable' }

type HostAndPort = { readonly host: string; readonly port: string }

const hostPattern = /^(?:\[([0-9a-fA-F:.]+(?:%25[^\]]+)?)\]|([^:[\]]*))(?::(\d*))?$/

/** Throws for a part that is not a host with an optional port. */
const parseHosts = (text: string): HostAndPort[] =>
  text.split(',').map((part) => {
    const match = hostPattern.exec(part)
    const [, literal, name = '', port = ''] = match ?? []
    const host = decodeURIComponent(literal ?? name)
    if (match === null || (literal !== undefined && isIP(host.split('%', 1)[0] ?? '') !== 6)) throw new Error(misread)
    return { host, port }
  })

const parseParameters = (text: string): Map<string, string> =>
  new Map(
    text
      .split('&')
      .filter((part) => part !== '')
      .map((part) => {
        const at = part.indexOf('=')
        if (at < 1) throw new Error(misread)
        return [decodeURIComponent(part.slice(0, at)), decodeURIComponent(part.slice(at + 1))]
      }),
  )

/** The parts of a URL, decoded. Throws when it cannot be read without doubt, for example with an unescaped `/` in the password. */
const split = (url: string) => {
  // An `@` or `#` after the authority is most likely part of a password that was not escaped.
  const match = /^postgres(?:ql)?:\/\/(?=.)([^/?#]*)(?:\/([^/?#@]*))?(?:\?([^#@]*))?$/.exec(url)
  if (match === null) throw new Error(misread)
  const [, authority = '', database = '', query = ''] = match
  const at = authority.lastIndexOf('@')
  const account = authority.slice(0, Math.max(at, 0))
  const colon = account.indexOf(':')
  return {
    user: decodeURIComponent(colon < 0 ? account : account.slice(0, colon)),
    password: colon < 0 ? '' : decodeURIComponent(account.slice(colon + 1)),
    hosts: parseHosts(authority.slice(at + 1)),
    database: decodeURIComponent(database),
    parameters: parseParameters(query),
  }
}

type Parts = ReturnType<typeof split>

/** Host, port and database as the URL or its parameters give them; empty where the environment decides. */
const placeOf = ({ hosts, database, user, parameters }: Parts) => {
  const names = parameters.get('host')?.split(',')
  const ports = parameters.get('port')?.split(',') ?? []
  const named = names?.map((host) => ({ host, port: '' })) ?? hosts
  return {
    hosts: named.map(({ host, port }, index) => ({ host, port: port || (ports[index] ?? ports[0] ?? '') })),
    user: parameters.get('user') ?? user,
    database: parameters.get('dbname') ?? database,
  }
}

/** Reports to its lists; every message starts with the name of the parameter. */
type Report = { readonly problems: string[]; readonly notes: string[] }

const readPem = (name: string, path: string, kind: RegExp, { problems }: Report): string => {
  try {
    const text = readFileSync(path, 'utf8')
    if (!kind.test(text)) problems.push(`parameter ${name} must name a file in PEM format`)
    return text
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : 'unknown error'
    problems.push(`parameter ${name} must name a file that can be read (${code})`)
    return ''
  }
}

/** The root certificates that libpq uses without `sslrootcert`. */
const readDefaultRoot = (): string | undefined => {
  try {
    return readFileSync(join(homedir(), '.postgresql', 'root.crt'), 'utf8')
  } catch {
    return undefined
  }
}

const certificate = /-----BEGIN (?:TRUSTED )?CERTIFICATE-----/
const privateKey = /-----BEGIN [A-Z ]*PRIVATE KEY-----/

const sslModeOf = (parameters: Map<string, string>, env: Environment, report: Report): SslMode => {
  const { problems, notes } = report
  const given = parameters.get('sslmode') ?? parameters.get('ssl') ?? env['PGSSLMODE'] ?? ''
  const alias = parameters.has('sslmode') ? undefined : sslAliases[given]
  const isSystem = (parameters.get('sslrootcert') ?? env['PGSSLROOTCERT']) === 'system'
  const mode = given === '' ? (isSystem ? 'verify-full' : 'prefer') : (alias ?? sslModes.find((each) => each === given))
  if (mode === undefined) {
    problems.push(`parameter sslmode must be one of ${sslModes.slice(0, 6).join(', ')}`)
    return 'verify-full'
  }
  if (isSystem && mode !== 'verify-full') {
    problems.push('parameter sslmode must be verify-full where sslrootcert is system')
  }
  if (parameters.get('channel_binding') !== 'require' || mode === 'verify-full') return mode
  if (mode === 'disable') problems.push('parameter channel_binding must not be require where sslmode is disable')
  notes.push(
    'parameter channel_binding=require is replaced by sslmode=verify-full: the certificate of the server must be valid',
  )
  return 'verify-full'
}

const tlsOf = (parameters: Map<string, string>, env: Environment, report: Report): false | TlsOptions => {
  const { problems } = report
  const mode = sslModeOf(parameters, env, report)
  const file = (name: string, kind: RegExp) => {
    const path = parameters.get(name) || env[`PG${name.toUpperCase()}`] || undefined
    return path === undefined || path === 'system' ? undefined : readPem(name, path, kind, report)
  }
  const given = file('sslrootcert', certificate)
  const cert = file('sslcert', certificate)
  const key = file('sslkey', privateKey)
  if ((cert === undefined) !== (key === undefined)) problems.push('parameters sslcert and sslkey must be set together')
  if (mode === 'disable') return false
  const passphrase = parameters.get('sslpassword')
  const own = {
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(passphrase !== undefined && { passphrase }),
  }
  if (mode === 'no-verify') return { rejectUnauthorized: false, ...own }
  if (mode === 'prefer' || mode === 'allow') return { prefer: true, rejectUnauthorized: false, ...own }
  const isSystem = (parameters.get('sslrootcert') ?? env['PGSSLROOTCERT']) === 'system'
  const root = given ?? (isSystem ? undefined : readDefaultRoot())
  if (mode === 'verify-full') return { rejectUnauthorized: true, ...(root !== undefined && { ca: root }), ...own }
  if (root !== undefined) {
    return { rejectUnauthorized: true, ca: root, checkServerIdentity: () => undefined, ...own }
  }
  if (mode === 'verify-ca') {
    problems.push(
      'parameter sslmode=verify-ca needs sslrootcert, a file of root certificates; verify-full also works with those of the runtime',
    )
  }
  return { rejectUnauthorized: false, ...own }
}

const checkParameters = (parameters: Map<string, string>, { problems, notes }: Report): void => {
  for (const [name, value] of parameters) {
    if (honoured.has(name)) continue
    const reason = ignored.get(name)
    const values = fixed.get(name)
    if (reason !== undefined) notes.push(`parameter ${name} is ignored: ${reason}`)
    else if (values === undefined)
      problems.push(`parameter ${JSON.stringify(name)} must be removed: it is not supported`)
    else if (!values.includes(value)) problems.push(`parameter ${name} must be ${values[0]} or removed`)
  }
  const binding = parameters.get('channel_binding')
  if (binding === 'prefer' || binding === 'disable') {
    notes.push('parameter channel_binding is ignored: it is not supported')
  } else if (binding !== undefined && binding !== 'require') {
    problems.push('parameter channel_binding must be one of disable, prefer, require')
  }
}

const defaultPort = 5432

const addressesOf = (hosts: readonly HostAndPort[], env: Environment, { problems }: Report) => {
  const ports = (env['PGPORT'] ?? '').split(',')
  const all = hosts.flatMap(({ host, port }, index) =>
    (host || env['PGHOST'] || 'localhost').split(',').map((each, offset) => {
      const text = port || (ports[index + offset] ?? ports[0]) || String(defaultPort)
      const number = Number(text)
      if (!/^\d{1,5}$/.test(text) || number < 1 || number > 65_535)
        problems.push('port must be a number from 1 to 65535')
      return { host: each, port: number }
    }),
  )
  const isSocket = (host: string) => host.startsWith('/')
  if (all.some(({ host }) => host.startsWith('@'))) problems.push('host must not be an abstract socket')
  if (all.some(({ host }) => isSocket(host)) && all.length > 1) {
    problems.push('host must be one directory of a unix socket, or hosts without one')
  }
  if (all.some(({ host }) => !isSocket(host) && /[\s/]/.test(host))) problems.push('host must be a name or an address')
  const [first] = all
  return {
    host: all.map(({ host }) => host),
    port: all.map(({ port }) => port),
    ...(first !== undefined && isSocket(first.host) && { path: `${first.host}/.s.PGSQL.${first.port}` }),
  }
}

const sessionAttributesOf = (
  given: string | undefined,
  { problems }: Report,
): Pick<ConnectionTarget, 'target_session_attrs'> => {
  if (given === 'read-write' || given === 'primary') return { target_session_attrs: given }
  if (given !== undefined && given !== 'any') {
    problems.push('parameter target_session_attrs must be one of any, read-write, primary')
  }
  return {}
}

const negotiationOf = (
  given: string | undefined,
  ssl: false | TlsOptions,
  { problems }: Report,
): Pick<ConnectionTarget, 'sslnegotiation'> => {
  if (given === undefined || given === 'postgres') return {}
  if (given !== 'direct') problems.push('parameter sslnegotiation must be one of postgres, direct')
  else if (ssl === false || ssl.prefer === true) {
    problems.push('parameter sslnegotiation=direct needs sslmode require, verify-ca or verify-full')
  }
  return { sslnegotiation: 'direct' }
}

const nowhere: ConnectionTarget = { host: [], port: [], ssl: false, startup: {} }

/**
 * Reads a connection URL as libpq does: user, password, host and database, the same as parameters, several hosts, IPv6
 * literals, directories of unix sockets, and the meanings of `sslmode`, which is `prefer` by default. `env` gives PGHOST,
 * PGPORT, PGSSLMODE, PGSSLROOTCERT, PGSSLCERT and PGSSLKEY. Reads the files of certificates.
 *
 * Every parameter is honoured, ignored with a note, or a problem. What libpq does and this does not: `allow` encrypts where it
 * can, as `prefer` does; `verify-full` without a root uses those of the runtime; `channel_binding=require` becomes
 * `verify-full`, which keeps another server out as well.
 */
export const parseConnectionUrl = (url: string, env: Environment): ParsedConnectionUrl => {
  const report: Report = { problems: [], notes: [] }
  let parts: Parts
  try {
    parts = split(url)
  } catch {
    return { target: nowhere, notes: [], problems: [misread] }
  }
  const { parameters } = parts
  const { hosts, user, database } = placeOf(parts)
  checkParameters(parameters, report)
  const addresses = addressesOf(hosts, env, report)
  const tls = tlsOf(parameters, env, report)
  // As in libpq: sockets of this machine are never encrypted.
  const ssl = addresses.path === undefined ? tls : false
  const password = parameters.get('password') ?? parts.password
  const options = parameters.get('options')
  const target: ConnectionTarget = {
    ...addresses,
    ...(user !== '' && { user }),
    ...(password !== '' && { password }),
    ...(database !== '' && { database }),
    ssl,
    ...negotiationOf(parameters.get('sslnegotiation'), ssl, report),
    ...sessionAttributesOf(parameters.get('target_session_attrs'), report),
    startup: options === undefined ? {} : { options },
  }
  return { target, ...report }
}

/** The target of a URL. Throws `ConnectionUrlRefused` for one that the configuration would refuse. */
export const connectionTarget = (url: string, env: Environment): ConnectionTarget => {
  const { target, problems } = parseConnectionUrl(url, env)
  if (problems.length > 0) throw new ConnectionUrlRefused(problems.join('; '))
  return target
}

const withPort = ({ host, port }: HostAndPort): string => {
  const name = host.includes(':') && !host.startsWith('/') ? `[${host}]` : host
  return port === '' || name === '' ? name : `${name}:${port}`
}

/** Where a URL leads, for messages: without the password, and with the name of the variable where the environment decides. */
export const describeConnectionUrl = (url: string) => {
  try {
    const { hosts, user, database } = placeOf(split(url))
    return {
      server: hosts.map(withPort).join(',') || 'PGHOST',
      user: user || 'PGUSER',
      database: database || user || 'PGDATABASE',
    }
  } catch {
    return { server: 'PGHOST', user: 'PGUSER', database: 'PGDATABASE' }
  }
}
