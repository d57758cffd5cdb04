import { isAbsolute, relative } from 'node:path'
import { ConfigRefused, type S3Config } from '../config.ts'
import { SecretMismatch } from '../identity/signing-keys.ts'
import { describeConnectionUrl } from '../platform/connection-url.ts'
import { PostgresTooOld } from '../platform/first-connection.ts'
import { GeoipRefused } from '../platform/geoip.ts'
import { MigrationRefused } from '../platform/migrate.ts'
import { isTlsFailure } from '../platform/postgres.ts'
import { DatabaseUnfit } from '../platform/route.ts'
import { SealRefused } from '../platform/secrets.ts'
import { PortTaken } from '../platform/serve.ts'
import { StartFailed } from './supervisor.ts'

/** The settings that a reason not to start can name. */
export type StartSettings = {
  readonly host: string | undefined
  readonly port: number
  readonly databaseUrl: string | undefined
  readonly dataDirectory: string
  readonly mediaDirectory: string
}

/** What the errors of the runtimes, the driver and the server have in common. */
type SystemError = {
  readonly code?: string
  readonly path?: string
  readonly syscall?: string
  readonly message: string
}

type Target = ReturnType<typeof describeConnectionUrl>

const isError = (value: unknown): value is Error & SystemError => value instanceof Error

/** An error and its causes, outermost first. */
const chainOf = (error: unknown): (Error & SystemError)[] => (isError(error) ? [error, ...chainOf(error.cause)] : [])

/** On one line, without what would end a sentence twice. */
const plain = (text: string): string =>
  text
    .trim()
    .replace(/\s*\n\s*/g, '; ')
    .replace(/[.;]+$/, '')

/** The reasons that Postgres, or the connection to it, gives: by SQLSTATE or by system error. */
const databaseReason = (error: SystemError, target: Target): string | undefined => {
  const { code = '', message, syscall } = error
  const { server, user, database } = target
  const check = 'DATABASE_URL'
  switch (code) {
    case '28P01':
      return `Postgres at ${server} refused the password of user "${user}". Correct user and password in ${check}.`
    case '28000':
      return `Postgres at ${server} does not let user "${user}" in (${plain(message)}). Correct ${check}, or pg_hba.conf on the server.`
    case '3D000':
      return `Postgres at ${server} has no database "${database}". Create it, or correct the name in ${check}.`
    case '42501':
      return `Postgres at ${server}: ${plain(message)}. Grant user "${user}" the right to create tables (grant create, usage on schema public), or name another user in ${check}.`
    case '53300':
      return `Postgres at ${server} has no connection left. Raise max_connections there, or lower DB_CONNECTIONS of the instances that run.`
    case '57P03':
      return `Postgres at ${server} is not ready (${plain(message)}). Start Velro again when it is.`
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `The host of ${server} is unknown. Correct the host in ${check}, or the name service of this machine.`
    case 'CONNECT_TIMEOUT':
    case 'ETIMEDOUT':
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return `Postgres at ${server} does not answer. Check host and port in ${check}, and the firewall between.`
    case 'ECONNREFUSED':
      return `Nothing accepts connections at ${server}. Start Postgres there, or correct host and port in ${check}.`
    case 'ECONNRESET':
    case 'CONNECTION_CLOSED':
    case 'CONNECTION_ENDED':
      return `${server} closed the connection. Check in ${check} that host and port are those of Postgres, and that it accepts this machine.`
    case 'TLS_NOT_OFFERED':
      return `Postgres at ${server} does not offer TLS, which sslmode in ${check} requires. Turn on ssl there, or set sslmode=prefer where the network between is private.`
    default:
      if (isTlsFailure(error)) {
        return `The certificate of Postgres at ${server} is not valid here (${plain(message)}). Name the file of its root with sslrootcert in ${check}, or set sslmode=require to encrypt without verifying.`
      }
      return syscall === 'connect' ? `${server} cannot be reached (${plain(message)}). Correct ${check}.` : undefined
  }
}

const isWithin = (path: string, directory: string): boolean => {
  const rest = relative(directory, path)
  return !rest.startsWith('..') && !isAbsolute(rest)
}

const fileReasons: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  ENOTDIR: 'part of the path is a file',
  EEXIST: 'a file is in its place',
  ENOENT: 'it cannot be created',
}

/** A directory that cannot be written, by the variable that names it. */
const directoryReason = ({ code = '', path }: SystemError, settings: StartSettings): string | undefined => {
  const reason = fileReasons[code]
  if (reason === undefined || path === undefined) return undefined
  // The media directory first: by default it lies within the data directory.
  const variables = [
    ['MEDIA_DIR', settings.mediaDirectory],
    ['DATA_DIR', settings.dataDirectory],
  ] as const
  const named = variables.find(([, directory]) => isWithin(path, directory) || isWithin(directory, path))
  if (named === undefined) return undefined
  const [variable, directory] = named
  return `Cannot write to ${directory}: ${reason}. Make it writable, or set ${variable} to another directory.`
}

const networkReasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing accepts connections there',
  ENOTFOUND: 'the host is unknown',
  EAI_AGAIN: 'the host is unknown',
}

/** Why media cannot be stored, on one line, while everything else works. No secret. */
export const describeStorageFailure = (
  error: unknown,
  { mediaDirectory, s3 }: { readonly mediaDirectory: string; readonly s3: S3Config | undefined },
): string => {
  const chain = chainOf(error)
  const known = s3 === undefined ? fileReasons : networkReasons
  const reason = chain.map(({ code = '' }) => known[code]).find((words) => words !== undefined)
  const why = reason ?? plain(chain.at(-1)?.message ?? String(error))
  const [where, mend] =
    s3 === undefined
      ? [`in ${mediaDirectory}`, 'Make it writable with room to spare, or set MEDIA_DIR to another directory.']
      : [`in the bucket ${s3.bucket} at ${s3.endpoint}`, 'Check the S3_ variables, and the network between.']
  return `Media cannot be stored ${where}: ${why}. Uploads and generations fail until they can. ${mend}`
}

const listenReason = ({ code, message }: SystemError, { host, port }: StartSettings): string | undefined => {
  if (code === 'EACCES' || message.includes('Permission denied (os error 13)')) {
    return `This process may not listen on port ${port}. Set PORT to 1024 or more, or run with the right to it.`
  }
  // Of a name that does not resolve Bun reports an unrelated error of the system, but always of `listen`.
  const isAddress = code === 'EADDRNOTAVAIL' || /^failed to lookup address|, listen$|\(os error 97\)$/.test(message)
  return isAddress
    ? `The address ${host} is not one of this machine. Set HOST to an address of this machine, or leave it unset to listen on all of them.`
    : undefined
}

/**
 * Why the process could not start, on one line: what happened, which variable it concerns, what to do. No stack trace and no
 * secret. An unknown error is reported by its message. Undefined where a child process has reported the reason already.
 */
export const describeStartFailure = (error: unknown, settings: StartSettings | undefined): string | undefined => {
  const chain = chainOf(error)
  for (const each of chain) {
    if (each instanceof ConfigRefused) return `Invalid configuration: ${each.problems.map(plain).join('; ')}.`
    if (each instanceof StartFailed && each.isReported) return undefined
    if (
      each instanceof PortTaken ||
      each instanceof MigrationRefused ||
      each instanceof PostgresTooOld ||
      each instanceof DatabaseUnfit ||
      each instanceof GeoipRefused ||
      each instanceof StartFailed
    ) {
      return each.message
    }
    if (each instanceof SecretMismatch) {
      return settings?.databaseUrl === undefined
        ? `The signing keys in the embedded database were sealed with another SECRET. Set SECRET or SECRET_PREVIOUS to that value, or leave SECRET unset to use the one in ${settings?.dataDirectory}/secret.`
        : 'The signing keys in this database were sealed with another SECRET. Set SECRET to the value that the other instances use, or SECRET_PREVIOUS to the value that it replaced.'
    }
    if (each instanceof SealRefused) return `${each.message}. Set SECRET_PREVIOUS to the value that SECRET replaced.`
    if (settings === undefined) continue
    const reason =
      directoryReason(each, settings) ??
      (settings.databaseUrl === undefined
        ? undefined
        : databaseReason(each, describeConnectionUrl(settings.databaseUrl))) ??
      (each.syscall === 'connect' ? undefined : listenReason(each, settings))
    if (reason !== undefined) return reason
  }
  const message = plain(chain[0]?.message ?? String(error))
  if (message.startsWith('Embedded Postgres')) {
    return `${message}. Set DATA_DIR to a directory that can be used, or DATABASE_URL to a Postgres of your own.`
  }
  return `Velro could not start: ${message}.`
}
