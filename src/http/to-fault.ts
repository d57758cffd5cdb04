import { Fault } from '../fault.ts'
import { databaseFault } from '../platform/postgres.ts'

/**
 * The fault of an error by which Elysia ended a request. Its `code` is a word of Elysia's. An error that is not known is
 * `server.failed`: its message stays in the log.
 */
export const toFault = (code: string | number, error: unknown): Fault => {
  if (error instanceof Fault) return error
  if (code === 'NOT_FOUND') return new Fault('route.not_found')
  return databaseFault(error) ?? new Fault('server.failed', { cause: error })
}
