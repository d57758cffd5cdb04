import { Type as t } from '@sinclair/typebox'
import { type Visibility, visibilities } from '../matrix.ts'
import { exactly, oneOf, type ResourceDefinition, type RowSource, uuid } from './definition.ts'
import { grant } from './grant.ts'

export type ProjectFact = {
  readonly ownerId: string
  readonly visibility: Visibility
  readonly allowDerivatives: boolean
}

type Row = {
  readonly project_owner_id: string
  readonly project_visibility: Visibility
  readonly project_allow_derivatives: boolean
}

const row: RowSource<ProjectFact, Row> = {
  alias: 'p',
  select: {
    project_owner_id: 'p.owner_id',
    project_visibility: 'p.visibility',
    project_allow_derivatives: 'p.allow_derivatives',
  },
  toFact: (row) => ({
    ownerId: row.project_owner_id,
    visibility: row.project_visibility,
    allowDerivatives: row.project_allow_derivatives,
  }),
}

export const project: ResourceDefinition<'project', ProjectFact> = {
  kind: 'project',
  schema: exactly({ ownerId: uuid, visibility: oneOf(visibilities), allowDerivatives: t.Boolean() }),
  table: 'projects',
  columns: ['owner_id', 'visibility', 'allow_derivatives'],
  row,
  needs: [
    {
      definition: grant,
      sharesId: true,
      /** A grant changes nothing for the owner, nor in a private project. */
      idFor: ({ ownerId, visibility }, id, userId) => (ownerId === userId || visibility === 'private' ? null : id),
    },
  ],
}
