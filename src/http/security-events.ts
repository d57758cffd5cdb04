import type { Log } from '../platform/log.ts'
import type { RequestContext } from './request-context.ts'

/** Every security event, with the level and the message of its log line. src/identity/README.md documents the fields. */
export const securityEvents = {
  'account.registered': ['info', 'an account was registered'],
  'account.accepted': ['info', 'the owner of an account that an operator made chose a password'],
  'account.closed': ['info', 'the owner of an account closed it'],
  'account.exported': ['info', 'the owner of an account exported its data'],
  'sign_in.succeeded': ['info', 'a sign-in succeeded'],
  'sign_in.failed': ['info', 'a sign-in failed: the address is unknown or the password wrong'],
  'sign_in.refused': ['info', 'a sign-in with the right password was refused: the account is suspended'],
  'sign_in.not_verified': ['info', 'a sign-in with the right password was refused: the e-mail address is not verified'],
  'sign_in.paused': ['info', 'failures pause the verification of passwords for a source'],
  'password.changed': ['info', 'the password of an account was changed, and its other sessions were ended'],
  'password.not_changed': ['info', 'a change of the password failed: the current password was wrong'],
  'password.reset': ['info', 'the password of an account was set by a link in a mail, and its sessions were ended'],
  'email.verified': ['info', 'the e-mail address of an account was verified'],
  'email.changed': ['info', 'the e-mail address of an account was changed'],
  'email.restored': ['info', 'a change of an e-mail address was undone, and the sessions of the account were ended'],
  'identity.not_proven': ['info', 'an identity provider did not identify a person'],
  'identity.linked': ['info', 'the owner of an account linked an identity at a provider'],
  'identity.unlinked': ['info', 'the owner of an account unlinked an identity at a provider'],
  'sign_in.second_factor_asked': ['info', 'the password was right, and a second factor is asked for'],
  'sign_in.second_factor_failed': ['info', 'a second factor was wrong'],
  'sign_in.passkey_refused': ['info', 'a sign-in with a passkey was refused'],
  'session.reauthenticated': ['info', 'the person of a session authenticated again'],
  'session.not_reauthenticated': ['info', 'the person of a session failed to authenticate again'],
  'session.ended': ['info', 'a session was ended by its owner'],
  'session.all_ended': ['info', 'all sessions of an account were ended by its owner'],
  'session.replaced': [
    'info',
    'a sign-in ended the session that was seen least recently, or that the browser had before',
  ],
  'session.context_changed': ['warn', 'a session is used from another place or device than it was opened with'],
  'session.refresh_reused': ['warn', 'a refresh token was used twice: the session was ended'],
  'totp.enabled': ['info', 'an authenticator app was set up'],
  'totp.disabled': ['info', 'an authenticator app was removed'],
  'passkey.added': ['info', 'a passkey was added'],
  'passkey.removed': ['info', 'a passkey was removed'],
  'recovery_codes.replaced': ['info', 'recovery codes were replaced by new ones'],
  'user.second_factors_removed': ['info', 'an operator removed the second factors of an account'],
  'user.changed': ['info', 'an operator changed an account'],
  'user.invited': ['info', 'an operator made an account, or sent its owner the mail to choose a password again'],
  'user.password_reset': ['info', 'an operator ended the password and the sessions of an account'],
  'user.sessions_ended': ['info', 'an operator ended all sessions of an account'],
  'user.failures_cleared': ['info', 'an operator ended the pauses of an account'],
  'service_key.created': ['info', 'an operator created a service key'],
  'service_key.restricted': ['info', 'an operator changed the allowed networks or the expiry of a service key'],
  'service_key.limited': ['info', 'an operator changed the limit of a service key'],
  'team.member_joined': ['info', 'a person accepted an invitation to a team'],
  'team.member_left': ['info', 'a member left a team'],
  'team.member_removed': ['info', 'a member was removed from a team'],
  'team.role_changed': ['info', 'the role of a member of a team was changed'],
  'team.second_factor_required': ['info', 'the owner of a team changed whether it requires a second factor'],
  'team.transferred': ['info', 'the owner of a team transferred it to a member'],
  'team.deleted': ['info', 'the owner of a team deleted it'],
  'project.transferred': ['info', 'the owner of a project transferred it to another account'],
  'breaker.policy_changed': ['info', 'an operator changed the policy of a breaker'],
  'mode.changed': ['warn', 'an operator changed the mode of the service'],
  'block.added': ['info', 'an operator blocked an address, a network, an account or a service key'],
  'block.removed': ['info', 'an operator removed a block'],
  'limit.lifted': ['info', 'an operator lifted a limit'],
  'webhook.created': ['info', 'a webhook was registered'],
  'webhook.changed': ['info', 'a webhook was changed'],
  'webhook.removed': ['info', 'a webhook was removed'],
  'webhook.secret_rotated': ['info', 'the secret of a webhook was rotated'],
  'webhook.replayed': ['info', 'events of a webhook are sent again'],
  'incident.opened': ['warn', 'an incident was opened'],
  'incident.changed': ['info', 'an operator changed an incident'],
  'incident.closed': ['info', 'an operator closed an incident'],
  'feature_flag.changed': ['info', 'an operator added or changed a feature flag'],
  'feature_flag.removed': ['info', 'an operator removed a feature flag'],
  'feature_flag.restored': ['info', 'an operator restored an earlier version of a feature flag'],
  'service_key.revoked': ['info', 'an operator revoked a service key'],
} as const satisfies Record<string, readonly ['info' | 'warn', string]>

export type SecurityEvent = keyof typeof securityEvents

/** Who, from where and what. Never a secret, and no e-mail address. */
export type SecurityEventFields = {
  /** Of the client. */
  readonly address: string
  /** The account that the event is about; null for an address that belongs to none. */
  readonly user_id?: string | null
  /** The operator, or the member of the team, that acted. */
  readonly by?: string
  readonly session_id?: string
  readonly [name: string]: string | number | boolean | readonly string[] | null | undefined
}

/** Writes a security event to the log. Call it once the change is committed. */
export type RecordSecurityEvent = (
  context: Pick<RequestContext, 'requestId' | 'actingKeyId'>,
  event: SecurityEvent,
  fields: SecurityEventFields,
) => void

export const createSecurityEvents =
  (log: Log): RecordSecurityEvent =>
  (context, event, fields) => {
    const [level, message] = securityEvents[event]
    const { requestId: request_id, actingKeyId } = context
    const acting = actingKeyId === undefined ? undefined : { acting_service_key_id: actingKeyId }
    log[level]({ event, request_id, ...acting, ...fields }, message)
  }
