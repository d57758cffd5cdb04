import { Type as t } from '@sinclair/typebox'
import { type ActionSet, every } from '../matrix.ts'
import { exactly, type FactDefinition } from './definition.ts'

/**
 * Everything one user may do through teams in projects of others, by project. A project that is not listed grants
 * nothing, so one fact answers for every project, new ones included. `except` lists the excluded projects: their grants
 * changed after this was loaded. `many`: there are more than `maxGrants`, and the grant on each project is cached separately.
 */
export type GrantsFact =
  | { readonly granted: Readonly<Record<string, ActionSet>>; readonly except?: readonly string[] }
  | 'many'

export const maxGrants = 200
/** With more projects excluded than this, the whole is loaded again. */
const maxExcept = 16

/** The fact with a project excluded; undefined where more than `maxExcept` are, and it has to be loaded again. */
export const excludeProject = (grants: GrantsFact, projectId: string): GrantsFact | undefined => {
  if (grants === 'many' || grants.except?.includes(projectId)) return grants
  const except = [...(grants.except ?? []), projectId]
  return except.length > maxExcept ? undefined : { granted: grants.granted, except }
}

/**
 * Whether a load about a resource has to include the user's grants. Without `projectId` the resource may be in any
 * project.
 */
export const mustLoadGrants = (grants: GrantsFact | undefined, projectId?: string): boolean => {
  if (grants === undefined || grants === 'many') return true
  return projectId === undefined ? grants.except !== undefined : grants.except?.includes(projectId) === true
}

const uuidPattern = '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'

export const grants: FactDefinition<'grants', GrantsFact> = {
  kind: 'grants',
  schema: t.Union([
    exactly({
      granted: t.Record(t.String({ pattern: uuidPattern }), t.Integer({ minimum: 1, maximum: every }), {
        additionalProperties: false,
        maxProperties: maxGrants,
      }),
    }),
    t.Literal('many'),
  ]),
  table: 'project_access',
  columns: ['user_id', 'project_id', 'actions', 'owned'],
  /** `many` and `except` say how a grant is cached, not which: they compare equal to anything. */
  comparable: (fact, other) => {
    if (other === null) return fact
    if (fact === 'many' || other === 'many') return 'many'
    const except = new Set([...(fact.except ?? []), ...(other.except ?? [])])
    return Object.fromEntries(Object.entries(fact.granted).filter(([id]) => !except.has(id)))
  },
  /** Measured: 30 to 165 bytes a project, the more the fewer other users have it too. */
  extraBytes: (fact) => (fact === 'many' ? 0 : 160 * Object.keys(fact.granted).length),
}
