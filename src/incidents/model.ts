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
import { type IncidentKind, incidentKinds, incidentSubjects, severities } from './report.ts'
import { resolutions } from './store.ts'

const kinds = Object.keys(incidentKinds) as [IncidentKind, ...IncidentKind[]]
const kindList = Object.entries(incidentKinds)
  .map(([kind, meaning]) => `\`${kind}\`: ${meaning}`)
  .join('. ')

const kind = { ...oneOf(kinds), description: kindList }
const severity = oneOf(severities)
const subjectType = oneOf(incidentSubjects)
const orNull = <T extends Parameters<typeof t.Union>[0][number]>(schema: T) => t.Union([schema, t.Null()])
const assignee = id('The operator who looks into it')
const note = t.String({ maxLength: 2_000, description: 'What operators wrote about it' })
const resolution = oneOf(resolutions)

const subjectId = t.String({ minLength: 1, maxLength: 200, pattern: subjectIdPattern })

const subject = closed({
  type: subjectType,
  id: {
    ...subjectId,
    description: 'Id of the user, session, service key or team; the address or network; name of the dependency',
  },
})

export const incidentParams = closed({ incident_id: id('Incident') })

export const incidentQuery = closed({
  ...pageQuery,
  status: t.Optional(oneOf(['open', 'closed'] as const)),
  kind: t.Optional(oneOf(kinds)),
  severity: t.Optional(severity),
  subject_type: t.Optional(subjectType),
  subject_id: t.Optional(subjectId),
  assignee_id: t.Optional(assignee),
})
export type IncidentQuery = Static<typeof incidentQuery>

export const newIncident = closed({
  severity,
  subject,
  note: t.Optional(note),
})
export type NewIncident = Static<typeof newIncident>

export const incidentChanges = t.Object(
  {
    status: t.Optional(
      t.Literal('closed', { description: 'Closes the incident for good; a later report opens another' }),
    ),
    resolution: t.Optional({ ...resolution, description: 'Only with `status`. Default: `resolved`' }),
    severity: t.Optional(severity),
    assignee_id: t.Optional({ ...orNull(assignee), description: 'An operator with an active account. Null: none' }),
    note: t.Optional(note),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type IncidentChanges = Static<typeof incidentChanges>

const listed = {
  id: id('Incident'),
  kind,
  severity,
  subject,
  status: oneOf(['open', 'closed'] as const),
  count: t.Integer({ minimum: 1, description: 'How often it was reported while it was open' }),
  first_seen_at: timestamp(),
  last_seen_at: timestamp(),
  assignee_id: orNull(assignee),
  opened_by: { ...orNull(id('Operator')), description: 'Null: the service opened it' },
  note,
  closed_at: orNull(timestamp()),
  closed_by: { ...orNull(id('Operator')), description: 'Null while it is open' },
  resolution: orNull(resolution),
}

export const listedIncident = closed(listed)
export type ListedIncident = Static<typeof listedIncident>

export const incident = closed({
  ...listed,
  evidence: t.Array(
    closed({
      at: timestamp(),
      details: t.Object({}, { additionalProperties: t.Union([t.String(), t.Number(), t.Boolean(), t.Null()]) }),
    }),
    { description: 'Evidence of the first report and of the nine latest' },
  ),
})
export type Incident = Static<typeof incident>
export const incidentPage = pageOf(listedIncident)
