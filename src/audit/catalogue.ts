/**
 * The closed catalogue of audit events. Nothing else can be recorded.
 *
 * `change`: a row in the transaction of the change, by `audit.record`. `event`: changes nothing, and is recorded off the path of
 * the request. `decision`: a decision on access, off the path as well, equal ones of a minute in one row.
 *
 * `about` is the kind of the target, and `text` what the event says. Names are `noun.past`; a name that was once released is kept.
 */
export type AuditKind = 'change' | 'event' | 'decision'

export const targetTypes = [
  'user',
  'session',
  'passkey',
  'linked_identity',
  'service_key',
  'team',
  'invitation',
  'project',
  'generation',
  'media',
  'share_link',
  'credits',
  'webhook',
  'limit',
  'flags',
  'mode',
  'block',
  'incident',
  'feature_flag',
  'setting',
  'breaker',
  'audit',
] as const
export type TargetType = (typeof targetTypes)[number]

type Entry = readonly [kind: AuditKind, about: TargetType | 'resource', text: string]

const entries = {
  'account.registered': ['change', 'user', 'an account was registered'],
  'account.registration_requested': [
    'change',
    'user',
    'an account was asked for whose e-mail address is not verified yet',
  ],
  'account.accepted': ['change', 'user', 'the owner of an account that an operator made chose a password'],
  'account.changed': ['change', 'user', 'the owner of an account changed it'],
  'account.closed': ['change', 'user', 'the owner of an account closed it'],
  'account.exported': ['event', 'user', 'the owner of an account exported its data'],
  'email.verification_requested': ['change', 'user', 'a mail to verify an e-mail address was asked for'],
  'email.verified': ['change', 'user', 'the e-mail address of an account was verified'],
  'email.change_requested': ['change', 'user', 'a mail to change an e-mail address was asked for'],
  'email.changed': ['change', 'user', 'the e-mail address of an account was changed'],
  'email.restored': [
    'change',
    'user',
    'a change of an e-mail address was undone, and the sessions of the account were ended',
  ],
  'password.changed': ['change', 'user', 'the password of an account was changed, and its other sessions were ended'],
  'password.not_changed': ['event', 'user', 'a change of the password failed: the current password was wrong'],
  'password.reset_requested': ['change', 'user', 'a mail to choose a password again was asked for'],
  'password.reset': [
    'change',
    'user',
    'the password of an account was set by a link in a mail, and its sessions were ended',
  ],
  'sign_in.succeeded': ['change', 'session', 'a sign-in succeeded'],
  'sign_in.failed': ['event', 'user', 'a sign-in failed: the address is unknown or the password wrong'],
  'sign_in.refused': ['event', 'user', 'a sign-in with the right password was refused: the account is suspended'],
  'sign_in.not_verified': ['event', 'user', 'a sign-in was refused: the e-mail address is not verified'],
  'sign_in.paused': ['event', 'user', 'failures pause the verification of passwords for a source'],
  'sign_in.second_factor_asked': ['change', 'user', 'the password was right, and a second factor is asked for'],
  'sign_in.second_factor_failed': ['event', 'user', 'a second factor was wrong'],
  'sign_in.passkey_refused': ['event', 'user', 'a sign-in with a passkey was refused'],
  'session.refreshed': ['change', 'session', 'the tokens of a session were renewed'],
  'session.refresh_reused': ['change', 'session', 'a refresh token was used twice: the session was ended'],
  'session.reauthenticated': ['change', 'session', 'the person of a session authenticated again'],
  'session.not_reauthenticated': ['event', 'session', 'the person of a session failed to authenticate again'],
  'session.context_changed': ['event', 'session', 'a session was used from another country, network or device'],
  'session.ended': ['change', 'session', 'a session was ended by its owner'],
  'session.all_ended': ['change', 'user', 'all sessions of an account were ended by its owner'],
  'session.replaced': ['change', 'session', 'a sign-in in the same browser ended the session that it had before'],
  'identity.linked': ['change', 'linked_identity', 'the owner of an account linked an identity at a provider'],
  'identity.unlinked': ['change', 'linked_identity', 'the owner of an account unlinked an identity at a provider'],
  'identity.not_proven': ['event', 'user', 'an identity provider did not identify a person'],
  'totp.started': ['change', 'user', 'the set-up of an authenticator app began'],
  'totp.enabled': ['change', 'user', 'an authenticator app was set up'],
  'totp.disabled': ['change', 'user', 'an authenticator app was removed'],
  'passkey.added': ['change', 'passkey', 'a passkey was added'],
  'passkey.renamed': ['change', 'passkey', 'a passkey was renamed'],
  'passkey.removed': ['change', 'passkey', 'a passkey was removed'],
  'recovery_codes.replaced': ['change', 'user', 'recovery codes were replaced by new ones'],
  'user.created': ['change', 'user', 'an operator made an account, and its owner was invited'],
  'user.invited': ['change', 'user', 'an operator sent the owner of an account the invitation again'],
  'user.changed': ['change', 'user', 'an operator changed an account'],
  'user.password_reset': ['change', 'user', 'an operator ended the password and the sessions of an account'],
  'user.sessions_ended': ['change', 'user', 'an operator ended all sessions of an account'],
  'user.second_factors_removed': ['change', 'user', 'an operator removed the second factors of an account'],
  'user.failures_cleared': ['change', 'user', 'an operator ended the pauses of an account'],
  'service_key.created': ['change', 'service_key', 'an operator created a service key'],
  'service_key.limited': ['change', 'service_key', 'an operator changed a service key'],
  'service_key.restricted': [
    'change',
    'service_key',
    'an operator changed the networks or the expiry of a service key',
  ],
  'service_key.revoked': ['change', 'service_key', 'an operator revoked a service key'],
  'team.created': ['change', 'team', 'a team was created'],
  'team.changed': ['change', 'team', 'a team was changed'],
  'team.second_factor_required': ['change', 'team', 'the owner of a team changed whether it requires a second factor'],
  'team.transferred': ['change', 'team', 'the owner of a team transferred it to a member'],
  'team.deleted': ['change', 'team', 'the owner of a team deleted it'],
  'team.member_invited': ['change', 'invitation', 'a person was invited to a team'],
  'team.invitation_cancelled': ['change', 'invitation', 'an invitation to a team was cancelled'],
  'team.invitation_declined': ['change', 'invitation', 'a person declined an invitation to a team'],
  'team.member_joined': ['change', 'team', 'a person accepted an invitation to a team'],
  'team.member_left': ['change', 'team', 'a member left a team'],
  'team.member_removed': ['change', 'team', 'a member was removed from a team'],
  'team.role_changed': ['change', 'team', 'the role of a member of a team was changed'],
  'project.created': ['change', 'project', 'a project was created'],
  'project.changed': ['change', 'project', 'a project was changed'],
  'project.transferred': ['change', 'project', 'the owner of a project transferred it to another account'],
  'project.deleted': ['change', 'project', 'a project was deleted'],
  'grant.created': ['change', 'project', 'a project was granted to a team'],
  'grant.changed': ['change', 'project', 'the grant of a project to a team was changed'],
  'grant.withdrawn': ['change', 'project', 'the grant of a project to a team was withdrawn'],
  'generation.ordered': ['change', 'generation', 'a generation was ordered'],
  'generation.changed': ['change', 'generation', 'a generation was changed'],
  'generation.cancelled': ['change', 'generation', 'a generation was cancelled'],
  'generation.deleted': ['change', 'generation', 'a generation was deleted'],
  'generation.favorite_changed': [
    'change',
    'generation',
    'a generation was added to the favorites of a person or removed',
  ],
  'media.uploaded': ['change', 'media', 'a reference image was uploaded'],
  'media.deleted': ['change', 'media', 'media were deleted'],
  'share_link.created': ['change', 'share_link', 'a share link was created'],
  'share_link.revoked': ['change', 'share_link', 'a share link was revoked'],
  'credits.granted': ['change', 'credits', 'an operator granted credits'],
  'webhook.created': ['change', 'webhook', 'a webhook was registered'],
  'webhook.changed': ['change', 'webhook', 'a webhook was changed'],
  'webhook.removed': ['change', 'webhook', 'a webhook was removed'],
  'webhook.secret_rotated': ['change', 'webhook', 'the secret of a webhook was rotated'],
  'webhook.replayed': ['change', 'webhook', 'events of a webhook are sent again'],
  'mode.changed': ['change', 'mode', 'an operator changed the mode of the service'],
  'mode.expired': ['change', 'mode', 'the mode of the service expired, and is normal again'],
  'mode.unlocked': ['change', 'mode', 'the mode of the service was lifted from the command line'],
  'mode.of_instance_changed': ['event', 'mode', 'a circuit breaker changed the mode of an instance'],
  'block.added': ['change', 'block', 'an address, a network, an account or a service key was blocked'],
  'block.removed': ['change', 'block', 'a block was removed'],
  'block.expired': ['change', 'block', 'a block expired'],
  'limit.lifted': ['change', 'limit', 'an operator lifted a limit'],
  'breaker.policy_changed': ['change', 'breaker', 'an operator changed the policy of circuit breakers'],
  'breaker.opened': ['event', 'breaker', 'a circuit breaker of an instance opened'],
  'breaker.closed': ['event', 'breaker', 'a circuit breaker of an instance closed'],
  'feature_flag.changed': ['change', 'feature_flag', 'an operator added or changed a feature flag'],
  'feature_flag.removed': ['change', 'feature_flag', 'an operator removed a feature flag'],
  'feature_flag.restored': ['change', 'feature_flag', 'an operator restored an earlier version of a feature flag'],
  'incident.opened': ['change', 'incident', 'an operator opened an incident'],
  'incident.changed': ['change', 'incident', 'an operator changed an incident'],
  'incident.closed': ['change', 'incident', 'an operator closed an incident'],
  'flags.changed': ['change', 'flags', 'an operator switched tiers of the cache or the warm-up'],
  'audit.exported': ['event', 'audit', 'an operator exported audit events'],
  'audit.decisions_dropped': ['event', 'audit', 'decisions were not recorded, because the queue was full'],
  'audit.chain_restarted': [
    'event',
    'audit',
    'the signed head of a chain was missing or changed, and the chain began anew',
  ],
  'audit.database_moved': [
    'event',
    'audit',
    'the database was restored from a dump or copied, and its audit log goes on from there',
  ],
  'access.denied': ['decision', 'resource', 'an access was denied'],
  'access.allowed': ['decision', 'resource', 'a sampled access was allowed'],
} as const satisfies Record<string, Entry>

export type AuditAction = keyof typeof entries

/** The actions of one kind. */
type ActionOf<K extends AuditKind> = {
  [A in AuditAction]: (typeof entries)[A][0] extends K ? A : never
}[AuditAction]
export type ChangeAction = ActionOf<'change'>
export type EventAction = ActionOf<'event'>
export type DecisionAction = ActionOf<'decision'>

export const auditActions: readonly string[] = Object.keys(entries)

export const isAuditAction = (name: string): name is AuditAction => Object.hasOwn(entries, name)

export const kindOfAction = (action: AuditAction): AuditKind => entries[action][0]
export const targetOfAction = (action: AuditAction): TargetType | 'resource' => entries[action][1]
export const textOfAction = (action: AuditAction): string => entries[action][2]
