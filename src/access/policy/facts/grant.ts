import { Type as t } from '@sinclair/typebox'
import { type ActionSet, every } from '../matrix.ts'
import type { Part, ResourceDefinition } from './definition.ts'
import { excludeProject, type GrantsFact, grants } from './grants.ts'

/** What one user may do in one project as its owner or through teams. What its visibility allows is not part of it. */
export type GrantFact = ActionSet

const part: Part<GrantFact, GrantsFact> = {
  whole: grants,
  namedBy: 'project',
  read: (all, projectId) => {
    if (all === 'many') return 'separate'
    return all.except?.includes(projectId) ? 'excluded' : (all.granted[projectId] ?? 0)
  },
  exclude: excludeProject,
}

/** Its key names a user and a project, in this order. */
export const grant: ResourceDefinition<'grant', GrantFact> = {
  kind: 'grant',
  schema: t.Integer({ minimum: 0, maximum: every }),
  table: 'project_access',
  columns: ['user_id', 'project_id', 'actions', 'owned'],
  needs: [],
  part,
}
