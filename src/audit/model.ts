import {
  closed,
  id,
  oneOf,
  pageOf,
  pageQuery,
  type Static,
  subjectIdPattern,
  t,
  timestamp,
} from '../http/schema-types.ts'
import { auditActions } from './catalogue.ts'
import { problemKinds } from './verify.ts'

const action = oneOf(auditActions as readonly [string, ...string[]])
const values = t.Union([t.Object({}, { additionalProperties: true }), t.Null()])
const idOrNull = (description: string) => t.Union([id(description), t.Null()])
const textOrNull = (description: string) => t.Union([t.String({ description }), t.Null()])

export const auditEvent = closed({
  id: id('Event'),
  at: timestamp(),
  action,
  description: t.String({ description: 'The action in words' }),
  actor: closed({
    kind: oneOf(['user', 'service', 'system', 'anonymous'] as const),
    id: idOrNull('The account that acted. Null where you may not see it'),
    service_key_id: idOrNull('The service that acted, or acted for the account'),
    session_id: idOrNull('Session of the actor'),
    address: textOrNull('Of the client. Null where you may not see it, or where the account is closed'),
    user_agent: textOrNull('Of the client'),
    names: t.Union([t.Record(t.String(), t.String()), t.Null()]),
  }),
  target: closed({ type: t.String(), id: textOrNull('Id or name of the target') }),
  user_id: idOrNull('The account that the event concerns, where it is not the actor'),
  team_id: idOrNull('The team that the event concerns'),
  request_id: t.String(),
  before: values,
  after: values,
  count: t.Integer({ description: 'How many equal decisions the event stands for' }),
})
export type AuditEvent = Static<typeof auditEvent>
export const auditPage = pageOf(auditEvent)
export const page = closed(pageQuery)
export const teamParams = closed({ team_id: id('Team') })

export const auditQuery = closed({
  ...pageQuery,
  action: t.Optional(action),
  actor_id: t.Optional(id('The account that acted')),
  target_id: t.Optional({
    ...t.String({ minLength: 1, maxLength: 200, pattern: subjectIdPattern }),
    description:
      'Id of the target, or its name: of a breaker, a flag, a limit. Also finds the events of denials that name the resource among others',
  }),
  user_id: t.Optional(id('The account that the event concerns')),
  team_id: t.Optional(id('The team that the event concerns')),
  from: t.Optional(timestamp()),
  to: t.Optional(timestamp()),
})
export type AuditQuery = Static<typeof auditQuery>

export const exportRange = closed({ from: t.Optional(timestamp()), to: t.Optional(timestamp()) })
export type ExportRange = Static<typeof exportRange>

export const verifyQuery = closed({
  cursor: t.Optional(t.String({ minLength: 1, maxLength: 100, description: '`next_cursor` of the part before' })),
  head: t.Optional(
    t.String({
      maxLength: 4_096,
      pattern: '^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$',
      description: 'A signed head that you kept: finds a log that was cut at its end',
    }),
  ),
})

const kinds = Object.keys(problemKinds) as [keyof typeof problemKinds, ...(keyof typeof problemKinds)[]]

export const auditReport = closed({
  intact: t.Boolean({ description: 'Nothing is wrong in this part' }),
  problems: t.Array(
    closed({
      problem: oneOf(kinds),
      description: t.String(),
      month: timestamp(),
      sequence: t.Optional(t.Integer({ description: 'Place in the chain of the month' })),
      to: t.Optional(t.Integer()),
      event_id: t.Optional(t.String()),
      event_at: t.Optional(t.String()),
    }),
    { description: 'At most 1,000' },
  ),
  verified: t.Integer({ description: 'Events whose link was verified' }),
  pending: t.Integer({ description: 'Events that are not linked yet' }),
  erased: t.Integer({ description: 'Events whose personal data were erased with their account' }),
  head: textOrNull('The newest signed head. Keep it elsewhere, to find a log that is cut at its end'),
  next_cursor: t.Union([t.String(), t.Null()], { description: 'Go on with it. Null after the last part' }),
})
