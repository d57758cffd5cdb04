import { Fault } from '../fault.ts'
import { databaseFault } from '../platform/postgres.ts'
import { isValidationFailure, toInputProblems } from './input-errors.ts'

/**
 * The fault of an error by which Elysia ended a request. Its `code` is a word of Elysia's. An error that is not known is
 * `server.failed`: its message stays in the log.
 */
export const toFault = (code: string | number, error: unknown): Fault => {
  if (error instanceof Fault) return error
  if (code === 'VALIDATION' && isValidationFailure(error)) {
    // No JSON text is undefined, so the body that this route requires is missing.
    if (error.type === 'body' && error.value === undefined) return new Fault('request.malformed')
    if (error.type !== 'response') return new Fault('request.invalid', { problems: toInputProblems(error) })
  }
  if (code === 'PARSE') {
    // Elysia wraps an error of the body parser.
    const cause = error instanceof Error ? error.cause : undefined
    return cause instanceof Fault ? cause : (databaseFault(cause) ?? new Fault('request.malformed', { cause }))
  }
  if (code === 'NOT_FOUND') return new Fault('route.not_found')
  return databaseFault(error) ?? new Fault('server.failed', { cause: error })
}
