import type { Fault, FaultCode } from '../fault.ts'
import type { RequestContext } from './request-context.ts'

/** Refusals of a valid credential that another kind of credential, or one with more scopes, would not get. */
const needsMore: readonly FaultCode[] = [
  'service_key.scope_missing',
  'access.people_only',
  'access.services_only',
  'access.admins_only',
]

const presented = /^bearer +\S/i

/** Whether a request that is not signed in carried a token or a key that is not valid, or none at all. */
export type Credential = 'missing' | 'invalid'

export const credentialOf = ({ authorization, byCookie }: RequestContext): Credential =>
  byCookie === true || presented.test(authorization ?? '') ? 'invalid' : 'missing'

/**
 * The `WWW-Authenticate` header of a refusal (RFC 6750 §3): without an error code where the request had no token, so that a
 * client can tell a token that has ended from one that it forgot to send. A session that must authenticate again
 * gets the challenge of RFC 9470. Undefined: the refusal has none.
 */
export const challengeOf = (
  { code, status, extensions }: Pick<Fault, 'code' | 'status' | 'extensions'>,
  context: RequestContext,
): string | undefined => {
  if (needsMore.includes(code)) return 'Bearer error="insufficient_scope"'
  if (status !== 401) return undefined
  if (code === 'session.reauthentication_required')
    return `Bearer error="insufficient_user_authentication", max_age="${extensions?.['max_age_seconds']}"`
  const isInvalid =
    code === 'service_key.expired' || (code === 'identity.not_signed_in' && credentialOf(context) === 'invalid')
  return isInvalid ? 'Bearer error="invalid_token"' : 'Bearer'
}
