import { type DestinationStream, pino } from 'pino'
import type { LogLevel } from '../config.ts'

/** Structured log, one JSON object a line. */
export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

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
  'token',
]

/** Logs to standard output. Values under names that hold secrets are replaced, at the top and up to two levels below. */
export const createLog = (level: LogLevel, destination?: DestinationStream): Log => {
  const paths = secretNames.flatMap((name) => [name, `*.${name}`, `*.*.${name}`])
  const options = {
    level,
    base: null,
    messageKey: 'message',
    errorKey: 'error',
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths, censor: '[redacted]' },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}
