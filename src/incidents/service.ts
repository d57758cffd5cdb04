import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Operators } from '../identity/users/operators.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { isId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Incident, IncidentChanges, IncidentQuery, ListedIncident, NewIncident } from './model.ts'
import type { IncidentSubject } from './report.ts'
import type { IncidentRow, IncidentStore, IncidentUpdate } from './store.ts'

const recordIncident = recorderOf('incident')

const toListed = (row: IncidentRow): ListedIncident => ({
  id: row.id,
  kind: row.kind,
  severity: row.severity,
  subject: { type: row.subject_type, id: row.subject_id },
  status: row.closed_at === null ? 'open' : 'closed',
  count: Number(row.count),
  first_seen_at: row.first_seen_at.toISOString(),
  last_seen_at: row.last_seen_at.toISOString(),
  assignee_id: row.assignee_id,
  opened_by: row.opened_by,
  note: row.note,
  closed_at: row.closed_at?.toISOString() ?? null,
  closed_by: row.closed_by,
  resolution: row.resolution,
})

const toIncident = (row: IncidentRow): Incident => ({
  ...toListed(row),
  evidence: row.evidence.map(({ at_ms, details }) => ({ at: new Date(at_ms).toISOString(), details })),
})

/** Subjects with an id of this service. */
const withIds: readonly IncidentSubject['type'][] = ['user', 'session', 'service_key', 'team']

const requireSubject = ({ type, id }: IncidentSubject): void => {
  if (withIds.includes(type) && !isId(id)) throw invalidInput('body', '/subject/id', `must be the id of a ${type}`)
}

const requireClosing = ({ status, resolution }: IncidentChanges): void => {
  if (resolution !== undefined && status === undefined) {
    throw invalidInput(
      'body',
      '/resolution',
      'must be given with `status`, because it says how the incident was closed',
    )
  }
}

/**
 * Incidents as operators work on them. The route admits operators only, and their role is rechecked inside the transaction of a
 * change.
 *
 * A closed incident stays as it is: a later report of the same kind about the same subject opens another one.
 */
export const createIncidents = ({
  store,
  operators,
  changes,
  clock,
  record,
}: {
  store: IncidentStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const requireAssignee = async (tx: TransactionSql, caller: Caller, assigneeId: string | null | undefined) => {
    const assignee = await operators.requireForShare(tx, caller, assigneeId ?? caller.userId)
    if (assignee?.status !== 'active' || assignee.role !== 'admin') throw new Fault('incident.assignee_unfit')
  }

  const toUpdate = (
    caller: Caller,
    { status, resolution = 'resolved', severity, assignee_id, note }: IncidentChanges,
  ): IncidentUpdate => ({
    ...(severity !== undefined && { severity }),
    ...(assignee_id !== undefined && { assignee_id }),
    ...(note !== undefined && { note }),
    ...(status === 'closed' && { closed_at: new Date(clock.now()), closed_by: caller.userId, resolution }),
  })

  return {
    list: async (
      context: RequestContext,
      place: { after: string | null; limit: number },
      { status, kind, severity, subject_type, subject_id, assignee_id }: IncidentQuery,
    ) => {
      const filter = {
        status,
        kind,
        severity,
        subjectType: subject_type,
        subjectId: subject_id,
        assigneeId: assignee_id,
      }
      const { items, next_cursor } = toPage(await store.list(context.deadline, { ...place, ...filter }), place.limit)
      return { items: items.map(toListed), next_cursor }
    },

    get: async (context: RequestContext, id: string): Promise<Incident> => {
      const row = await store.find(context.deadline, id)
      if (row === undefined) throw new Fault('incident.not_found')
      return toIncident(row)
    },

    /** Opens an incident by hand, or counts one more report on the open one about the same subject. */
    report: async (
      context: RequestContext,
      caller: Caller,
      { severity, subject, note }: NewIncident,
      address: string,
    ): Promise<{ incident: Incident; opened: boolean }> => {
      requireSubject(subject)
      const nowMs = clock.now()
      const kind = 'operator.reported' as const
      const reported = { kind, severity, subject, count: 1, firstSeenMs: nowMs, lastSeenMs: nowMs, evidence: [] }
      const result = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await operators.requireForShare(tx, caller)
          const opened = await store.report([reported], tx, caller.userId)
          const row = await store.findOpen(tx, reported)
          if (row === undefined) throw new Error('the incident that was reported is not open')
          const action = opened.length === 1 ? 'incident.opened' : 'incident.changed'
          recordIncident(tx, context, caller, row.id, action, { after: { kind, severity } })
          const noted = note === undefined ? row : await store.update(tx, row.id, { note })
          return { incident: toIncident(noted), opened: opened.length === 1 }
        },
        { grantsOnly: true },
      )
      const { id } = result.incident
      if (result.opened)
        record(context, 'incident.opened', { address, by: caller.userId, incident_id: id, kind, severity })
      else record(context, 'incident.changed', { address, by: caller.userId, incident_id: id, changed: ['count'] })
      return result
    },

    update: async (
      context: RequestContext,
      caller: Caller,
      id: string,
      input: IncidentChanges,
      address: string,
    ): Promise<Incident> => {
      requireClosing(input)
      const updated = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await requireAssignee(tx, caller, input.assignee_id)
          const row = await store.lock(tx, id)
          if (row === undefined) throw new Fault('incident.not_found')
          if (row.closed_at !== null) throw new Fault('incident.closed')
          const action = input.status === 'closed' ? 'incident.closed' : 'incident.changed'
          recordIncident(tx, context, caller, id, action, { after: { changed: Object.keys(input) } })
          return toIncident(await store.update(tx, id, toUpdate(caller, input)))
        },
        { grantsOnly: true },
      )
      const by = { address, by: caller.userId, incident_id: id }
      const { status, resolution } = updated
      if (status === 'closed') record(context, 'incident.closed', { ...by, resolution })
      else record(context, 'incident.changed', { ...by, changed: Object.keys(input) })
      return updated
    },
  }
}

export type Incidents = ReturnType<typeof createIncidents>
