import type { AuditSource } from '../http/request-context.ts'
import type { RecordSecurityEvent, SecurityEvent } from '../http/security-events.ts'
import { type AuditAction, type EventAction, kindOfAction, targetOfAction } from './catalogue.ts'
import { type AuditActor, type AuditValues, taskContext } from './event.ts'
import type { AuditSink } from './sink.ts'

/** Those that change nothing. A change records its event in its own transaction. */
const isEvent = (event: SecurityEvent & AuditAction): event is SecurityEvent & EventAction =>
  kindOfAction(event) === 'event'

/** Proven by a session, while the others are by a client that is not known. */
const bySession: readonly SecurityEvent[] = ['account.exported', 'password.not_changed', 'session.not_reauthenticated']

const isValue = (value: unknown): value is string | number | boolean | null =>
  value === null || ['string', 'number', 'boolean'].includes(typeof value)

/** Also records the security events that change nothing, such as failed sign-ins, in the audit log, off the path of the request. */
export const withAudit =
  (record: RecordSecurityEvent, sink: Pick<AuditSink, 'event'>, source: AuditSource): RecordSecurityEvent =>
  (context, event, fields) => {
    record(context, event, fields)
    if (!isEvent(event)) return
    const { address, user_id = null, session_id, by, ...others } = fields
    const owner = user_id !== null && bySession.includes(event)
    const actor: AuditActor = owner ? { userId: user_id, sessionId: session_id } : 'anonymous'
    const values: AuditValues = Object.fromEntries(
      Object.entries(others).flatMap(([name, value]) => (isValue(value) ? [[name, value]] : [])),
    )
    const type = targetOfAction(event) === 'session' ? 'session' : 'user'
    sink.event({
      action: event,
      actor,
      target: { type, id: (type === 'session' ? session_id : user_id) ?? null },
      userId: user_id,
      ...(Object.keys(values).length > 0 && { after: values }),
      address,
      context: { ...taskContext(source, context.requestId), actingKeyId: context.actingKeyId },
    })
  }
