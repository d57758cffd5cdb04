import { type DestinationStream, pino } from 'pino'
import type { LogLevel } from '../config.ts'

/** A structured log: one JSON object on each line. */
export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** Credentials, and what identifies a person. */
const secretNames = [
  'password',
  'current_password',
  'new_password',
  'password_hash',
  'access_token',
  'refresh_token',
  'authorization',
  'cookie',
  'secret',
  'share',
  'signature',
  'token',
  'email',
  'display_name',
]

type ErrorFields = {
  name?: string
  message?: string
  stack?: string
  code?: unknown
  constraint_name?: unknown
  cause?: unknown
}

/** The logged form of an error. Omits the rows and parameters in a database error, which hold user data. */
const describeError = (error: unknown): unknown => {
  if (!(error instanceof Error)) return error
  const { name, message, stack, code, constraint_name, cause }: ErrorFields = error
  return { name, message, code, constraint_name, stack, ...(cause !== undefined && { cause: describeError(cause) }) }
}

/** Logs to standard output. Values under secret names are redacted at the top and up to two levels below. */
export const createLog = (level: LogLevel, destination?: DestinationStream): Log => {
  const paths = secretNames.flatMap((name) => [name, `*.${name}`, `*.*.${name}`])
  const options = {
    level,
    base: null,
    messageKey: 'message',
    errorKey: 'error',
    serializers: { error: describeError },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths, censor: '[redacted]' },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}
