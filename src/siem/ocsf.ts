import { isIP } from 'node:net'

/** The version of the schema that events follow: https://schema.ocsf.io/1.5.0 */
export const ocsfVersion = '1.5.0'

/** An event of the audit log, with its place in the hash chain. */
export type AuditedEvent = {
  readonly id: string
  /** ISO 8601, UTC. */
  readonly at: string
  readonly action: string
  readonly actorKind: string
  readonly actorId: string | null
  readonly serviceKeyId: string | null
  readonly sessionId: string | null
  readonly targetType: string
  readonly targetId: string | null
  readonly userId: string | null
  readonly teamId: string | null
  readonly requestId: string
  readonly before: unknown
  readonly after: unknown
  readonly count: number
  readonly address: string | undefined
  readonly userAgent: string | undefined
  readonly chain: { readonly month: string; readonly sequence: number; readonly hash: string }
  /** Signed head of the chain, with the last event of a batch. */
  readonly head?: string | undefined
}

type Class = { readonly uid: number; readonly name: string; readonly category: readonly [number, string] }

const iam = [3, 'Identity & Access Management'] as const
const authentication: Class = { uid: 3002, name: 'Authentication', category: iam }
const accountChange: Class = { uid: 3001, name: 'Account Change', category: iam }
const entityManagement: Class = { uid: 3004, name: 'Entity Management', category: iam }
const groupManagement: Class = { uid: 3006, name: 'Group Management', category: iam }
const apiActivity: Class = { uid: 6003, name: 'API Activity', category: [6, 'Application Activity'] }

type Activity = readonly [id: number, name: string]
const other: Activity = [99, 'Other']
const logon: Activity = [1, 'Logon']
const logoff: Activity = [2, 'Logoff']
const renewal: Activity = [5, 'Service Ticket Renew']
const preauth: Activity = [6, 'Preauth']
const create: Activity = [1, 'Create']
const read: Activity = [2, 'Read']
const update: Activity = [3, 'Update']
const remove: Activity = [4, 'Delete']

type Severity = readonly [id: number, name: string]
const informational: Severity = [1, 'Informational']
const low: Severity = [2, 'Low']
const medium: Severity = [3, 'Medium']
const high: Severity = [4, 'High']
const critical: Severity = [5, 'Critical']
/** As an incident has it. */
const severities: Readonly<Record<string, Severity>> = { low, medium, high, critical }

type Kind = {
  readonly of: Class
  readonly activity: Activity
  readonly severity?: Severity
  readonly failed?: boolean
}

const failedLogon = (severity = low): Kind => ({ of: authentication, activity: logon, severity, failed: true })
const account = (activity: Activity, more: Partial<Kind> = {}): Kind => ({ of: accountChange, activity, ...more })
const group = (activity: Activity): Kind => ({ of: groupManagement, activity })
const entity = (activity: Activity, severity = informational): Kind => ({ of: entityManagement, activity, severity })

const mfaEnabled: Activity = [10, 'MFA Factor Enable']
const mfaDisabled: Activity = [11, 'MFA Factor Disable']
const passwordChange: Activity = [3, 'Password Change']
const passwordReset: Activity = [4, 'Password Reset']

/** What the end of a name and the kind of the target do not say. */
const kinds: Readonly<Record<string, Kind>> = {
  'sign_in.succeeded': { of: authentication, activity: logon },
  'sign_in.failed': failedLogon(),
  'sign_in.refused': failedLogon(),
  'sign_in.not_verified': failedLogon(),
  'sign_in.paused': failedLogon(medium),
  'sign_in.passkey_refused': failedLogon(),
  'sign_in.second_factor_asked': { of: authentication, activity: preauth },
  'sign_in.second_factor_failed': failedLogon(medium),
  'identity.not_proven': failedLogon(),
  'session.refreshed': { of: authentication, activity: renewal },
  'session.refresh_reused': { of: authentication, activity: renewal, severity: high, failed: true },
  'session.reauthenticated': { of: authentication, activity: logon },
  'session.not_reauthenticated': failedLogon(),
  'session.ended': { of: authentication, activity: logoff },
  'session.all_ended': { of: authentication, activity: logoff },
  'session.replaced': { of: authentication, activity: logoff },
  'user.sessions_ended': { of: authentication, activity: logoff, severity: medium },
  'account.registered': account([1, 'Create']),
  'account.accepted': account([2, 'Enable']),
  'account.closed': account([6, 'Delete']),
  'user.created': account([1, 'Create']),
  'user.changed': account(other, { severity: low }),
  'user.password_reset': account(passwordReset, { severity: medium }),
  'user.second_factors_removed': account(mfaDisabled, { severity: medium }),
  'user.failures_cleared': account([12, 'Unlock']),
  'password.changed': account(passwordChange),
  'password.not_changed': account(passwordChange, { severity: low, failed: true }),
  'password.reset': account(passwordReset),
  'totp.enabled': account(mfaEnabled),
  'totp.disabled': account(mfaDisabled),
  'passkey.added': account(mfaEnabled),
  'passkey.removed': account(mfaDisabled),
  'team.created': group([6, 'Create']),
  'team.deleted': group([5, 'Delete']),
  'team.member_joined': group([3, 'Add User']),
  'team.member_left': group([4, 'Remove User']),
  'team.member_removed': group([4, 'Remove User']),
  'team.role_changed': group([1, 'Assign Privileges']),
  'grant.created': group([1, 'Assign Privileges']),
  'grant.changed': group([1, 'Assign Privileges']),
  'grant.withdrawn': group([2, 'Revoke Privileges']),
  'service_key.created': entity(create, low),
  'limit.lifted': entity(update, low),
  'audit.decisions_dropped': entity(other, medium),
  'audit.chain_restarted': entity(other, critical),
  'audit.database_moved': entity(other, high),
  'audit.event_missing': entity(other, critical),
}

/** What the last word of a name says of anything that is managed. */
const verbs: Readonly<Record<string, Activity>> = {
  created: create,
  ordered: create,
  uploaded: create,
  opened: create,
  set: update,
  changed: update,
  limited: update,
  rotated: update,
  transferred: update,
  restored: update,
  deleted: remove,
  removed: remove,
  revoked: remove,
  lifted: remove,
  exported: read,
}

/** What checks of access are about: reading, or a change. */
const accessActivities: Readonly<Record<string, Activity>> = {
  read,
  download: read,
  create,
  write: update,
  delete: remove,
}

const aboutAccounts = new Set(['user', 'passkey', 'linked_identity'])
const aboutGroups = new Set(['team', 'invitation'])
const sensitive = new Set(['mode', 'block', 'flags', 'feature_flag', 'setting', 'breaker', 'incident'])

const textIn = (values: unknown, name: string): string | undefined => {
  const value = typeof values === 'object' && values !== null ? Reflect.get(values, name) : undefined
  return typeof value === 'string' && value !== '' ? value : undefined
}

const kindOf = ({ action, targetType, after }: AuditedEvent): Kind => {
  const known = kinds[action]
  if (known !== undefined) return known
  if (action === 'access.denied' || action === 'access.allowed') {
    const activity = accessActivities[textIn(after, 'action') ?? ''] ?? other
    return { of: apiActivity, activity, failed: action === 'access.denied' }
  }
  const verb = verbs[action.slice(1 + Math.max(action.lastIndexOf('.'), action.lastIndexOf('_')))] ?? other
  if (aboutAccounts.has(targetType)) return account(other)
  if (aboutGroups.has(targetType)) return group(other)
  return entity(
    verb,
    severities[textIn(after, 'severity') ?? ''] ?? (sensitive.has(targetType) ? medium : informational),
  )
}

const unknownUser = { name: 'unknown', type_id: 0 }
const userOf = (id: string | null) => (id === null ? unknownUser : { uid: id, type_id: 1 })

const actorOf = ({ actorKind, actorId, sessionId, serviceKeyId }: AuditedEvent) => ({
  ...(actorId !== null && { user: userOf(actorId) }),
  ...(sessionId !== null && { session: { uid: sessionId } }),
  ...(serviceKeyId !== null && { app_uid: serviceKeyId }),
  ...((actorKind === 'system' || (actorId === null && serviceKeyId === null)) && { app_name: actorKind }),
})

const endpointOf = (address = 'unknown') => (isIP(address) === 0 ? { name: address } : { ip: address })

/** What each class requires beyond what all have. */
const detailsOf = (event: AuditedEvent, { of }: Kind, product: string) => {
  const { targetType, targetId, userId, actorId, teamId, action } = event
  const concerned = targetType === 'user' ? targetId : (userId ?? actorId)
  if (of === authentication)
    return {
      user: userOf(concerned),
      service: { name: product },
      ...(event.sessionId !== null && { session: { uid: event.sessionId } }),
      ...(targetType === 'session' && targetId !== null && { session: { uid: targetId } }),
    }
  if (of === accountChange) return { user: userOf(concerned) }
  if (of === groupManagement) {
    const isAboutProject = targetType === 'project' && targetId !== null
    return {
      group: {
        uid: teamId ?? textIn(event.after, 'team_id') ?? textIn(event.before, 'team_id') ?? targetId ?? 'unknown',
      },
      ...(userId !== null && { user: userOf(userId) }),
      ...(isAboutProject && { resource: { uid: targetId, type: targetType } }),
    }
  }
  if (of === entityManagement)
    return { entity: { type: targetType, ...(targetId === null ? { name: targetType } : { uid: targetId }) } }
  return {
    api: {
      operation: textIn(event.after, 'action') ?? action,
      request: { uid: event.requestId },
      service: { name: product },
    },
    resources: [{ type: targetType, uid: targetId ?? 'unknown' }],
  }
}

/**
 * An event as one object of the Open Cybersecurity Schema Framework. `message` says it in words.
 *
 * Sign-ins and sessions are Authentication, accounts and their factors Account Change, teams and grants Group Management,
 * decisions on access API Activity, all else Entity Management. Ids name people; names and e-mail addresses are left out.
 * `unmapped` has the values before and after, and the place in the hash chain.
 */
export const toOcsf = (event: AuditedEvent, message: string, product: { name: string; version: string }) => {
  const kind = kindOf(event)
  const { of, activity, severity = informational, failed = false } = kind
  return {
    activity_id: activity[0],
    activity_name: activity[1],
    category_uid: of.category[0],
    category_name: of.category[1],
    class_uid: of.uid,
    class_name: of.name,
    type_uid: of.uid * 100 + activity[0],
    type_name: `${of.name}: ${activity[1]}`,
    severity_id: severity[0],
    severity: severity[1],
    status_id: failed ? 2 : 1,
    status: failed ? 'Failure' : 'Success',
    ...(textIn(event.after, 'reason') !== undefined && { status_detail: textIn(event.after, 'reason') }),
    time: Date.parse(event.at),
    count: event.count,
    message,
    metadata: {
      version: ocsfVersion,
      product: { name: product.name, vendor_name: product.name, version: product.version },
      uid: event.id,
      event_code: event.action,
      correlation_uid: event.requestId,
      sequence: event.chain.sequence,
      log_name: 'audit',
      log_provider: product.name,
      original_time: event.at,
    },
    actor: actorOf(event),
    ...((event.address !== undefined || of === apiActivity) && { src_endpoint: endpointOf(event.address) }),
    ...(event.userAgent !== undefined && { http_request: { user_agent: event.userAgent, uid: event.requestId } }),
    ...detailsOf(event, kind, product.name),
    unmapped: {
      target: { type: event.targetType, id: event.targetId },
      ...(event.teamId !== null && { team_id: event.teamId }),
      ...(event.before !== null && { before: event.before }),
      ...(event.after !== null && { after: event.after }),
      chain: event.chain,
      ...(event.head !== undefined && { chain_head: event.head }),
    },
  }
}

export type OcsfEvent = ReturnType<typeof toOcsf>
