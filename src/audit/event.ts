import { Buffer } from 'node:buffer'
import { createHash, randomBytes } from 'node:crypto'
import type { AuditSource, RequestContext } from '../http/request-context.ts'
import { newId } from '../kit/id.ts'
import type { KeyedHash } from '../platform/secrets.ts'
import type { AuditAction, TargetType } from './catalogue.ts'

/**
 * Who acted. A `Caller` is an actor, also one for whom a service acts. `anonymous`: a client that did not sign in. `system`: this
 * service by itself, as a background task or a breaker.
 */
export type AuditActor =
  | {
      readonly userId: string
      readonly sessionId?: string | undefined
      readonly service?: { readonly keyId: string } | undefined
    }
  | { readonly keyId: string }
  | 'anonymous'
  | 'system'

/** `id`: null where there is none, as of a failed sign-in to an unknown address. */
export type AuditTarget = { readonly type: TargetType; readonly id: string | null }

/** Values of a row before or after a change. Never secrets, e-mail addresses or names: those belong into `names`. */
export type AuditValues = Readonly<Record<string, AuditValue | undefined>>
type AuditValue = string | number | boolean | null | readonly (string | number)[] | Values | readonly Values[]
type Values = Readonly<Record<string, string | number | boolean | null | undefined>>

/** What the audit reads of a request. Work that belongs to no request has a context by `taskContext`. */
export type AuditContext = Pick<RequestContext, 'requestId' | 'actingKeyId' | 'audit' | 'address' | 'userAgent'> & {
  readonly request?: Request | undefined
}

export type AuditEntry<A extends AuditAction = AuditAction> = {
  readonly action: A
  readonly actor: AuditActor
  readonly target: AuditTarget
  /** The account that the event concerns, where it is neither the actor nor the target. */
  readonly userId?: string | null | undefined
  /** The team that the event concerns, where it is not the target. Its owner may read the event. */
  readonly teamId?: string | null | undefined
  readonly before?: AuditValues | undefined
  readonly after?: AuditValues | undefined
  /** Names and other personal data. They are deleted when the account of the actor is closed. */
  readonly names?: Readonly<Record<string, string>> | undefined
  /** Address and program of the client, where the context has no request. */
  readonly address?: string | undefined
  readonly userAgent?: string | undefined
  readonly context: AuditContext
}

/** A row as the program gives it; `at` and `xid` are added by Postgres. The order of the members is that of `contentOf`. */
export type NewEvent = {
  readonly id: string
  readonly action: AuditAction
  readonly actor_kind: 'user' | 'service' | 'system' | 'anonymous'
  readonly actor_id: string | null
  readonly service_key_id: string | null
  readonly session_id: string | null
  readonly target_type: string
  readonly target_id: string | null
  readonly user_id: string | null
  readonly team_id: string | null
  readonly request_id: string
  /** JSON. */
  readonly before: string | null
  readonly after: string | null
  readonly count: number
  readonly details_hash: Uint8Array | null
}

export type NewDetails = { readonly user_id: string | null; readonly salt: Uint8Array; readonly details: string }

const hex = (bytes: Uint8Array | null): string | null => (bytes === null ? null : Buffer.from(bytes).toString('hex'))

/**
 * The values of an event that the program gave, as text. Two different events have different texts, because it is a JSON array
 * whose members have fixed places.
 */
export const contentOf = (event: Readonly<Record<keyof NewEvent, unknown>> & Pick<NewEvent, 'details_hash'>): string =>
  JSON.stringify([
    'velro-audit-1',
    event.id,
    event.action,
    event.actor_kind,
    event.actor_id,
    event.service_key_id,
    event.session_id,
    event.target_type,
    event.target_id,
    event.user_id,
    event.team_id,
    event.request_id,
    event.before,
    event.after,
    event.count,
    hex(event.details_hash),
  ])

export const hashOfDetails = ({ salt, details }: Pick<NewDetails, 'salt' | 'details'>): Uint8Array =>
  createHash('sha256').update(salt).update(details).digest()

const saltLength = 16
const maxAgentLength = 256
const maxNameLength = 200

/** Names that a client chose are cut, and the cut is marked. */
const cut = (text: string, maxLength: number): string =>
  text.length <= maxLength ? text : `${text.slice(0, maxLength - 1)}…`

const detailsOf = ({
  context: { request, audit, ...client },
  names,
  ...given
}: AuditEntry): Record<string, unknown> => {
  const address = given.address ?? client.address ?? (request && audit?.addressOf(request))
  const agent = given.userAgent ?? client.userAgent ?? request?.headers.get('user-agent')
  return {
    ...(address !== undefined && { address }),
    ...(agent && { user_agent: cut(agent, maxAgentLength) }),
    ...(names && {
      names: Object.fromEntries(Object.entries(names).map(([name, text]) => [name, cut(text, maxNameLength)])),
    }),
  }
}

const actorColumns = (actor: AuditActor, actingKeyId: string | undefined) => {
  const nobody = { actor_id: null, service_key_id: actingKeyId ?? null, session_id: null }
  if (actor === 'system' || actor === 'anonymous') return { actor_kind: actor, ...nobody } as const
  if ('keyId' in actor) return { actor_kind: 'service', ...nobody, service_key_id: actor.keyId } as const
  const { userId: actor_id, sessionId, service } = actor
  // Where a service acts, the caller has the id of its key in place of a session.
  return {
    actor_kind: 'user',
    actor_id,
    service_key_id: service?.keyId ?? actingKeyId ?? null,
    session_id: service === undefined ? (sessionId ?? null) : null,
  } as const
}

export type PreparedEvent = {
  readonly event: NewEvent & { readonly mac: Uint8Array }
  readonly details: NewDetails | undefined
}

/** The row of an entry, and the personal data beside it. Throws where the context cannot record. */
export const prepareEvent = (entry: AuditEntry, count = 1): PreparedEvent => {
  const { action, actor, target, before, after, context } = entry
  const { audit } = context
  if (audit === undefined) throw new TypeError(`The context of ${action} has no audit`)
  const columns = actorColumns(actor, context.actingKeyId)
  const concerned = entry.userId ?? (target.type === 'user' ? target.id : null)
  const user_id = concerned === columns.actor_id ? null : concerned
  const found = detailsOf(entry)
  const details =
    Object.keys(found).length === 0
      ? undefined
      : { user_id: columns.actor_id ?? user_id, salt: randomBytes(saltLength), details: JSON.stringify(found) }
  const event: NewEvent = {
    id: newId(),
    action,
    ...columns,
    target_type: target.type,
    target_id: target.id,
    user_id,
    team_id: entry.teamId ?? (target.type === 'team' ? target.id : null),
    request_id: context.requestId,
    before: before === undefined ? null : JSON.stringify(before),
    after: after === undefined ? null : JSON.stringify(after),
    count,
    details_hash: details === undefined ? null : hashOfDetails(details),
  }
  audit.recorded()
  return { event: { ...event, mac: audit.macOf(contentOf(event)) }, details }
}

/**
 * Authenticates events with a key that stays the same for as long as the database lives. Knows no address of a client: the
 * application adds that.
 */
export const createAuditSource = (keyedHash: KeyedHash): AuditSource & Recordings => {
  let recordings = 0
  return {
    macOf: (content) => keyedHash('audit-event', Buffer.from(content)),
    addressOf: () => undefined,
    recorded: () => {
      recordings += 1
    },
    get recordings() {
      return recordings
    },
  }
}

/** How many events this process has recorded. */
export type Recordings = { readonly recordings: number }

/** The context of work that belongs to no request. */
export const taskContext = (audit: AuditSource, task: string): AuditContext => ({
  requestId: task,
  actingKeyId: undefined,
  request: undefined,
  audit,
})
