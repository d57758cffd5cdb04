import { type GenerationStatus, generationStatuses } from '../matrix.ts'
import { exactly, oneOf, orNull, type ResourceDefinition, type RowSource, uuid } from './definition.ts'
import { project } from './project.ts'

export type GenerationFact = {
  readonly ownerId: string
  readonly projectId: string | null
  readonly status: GenerationStatus
}

type Row = {
  readonly generation_owner_id: string
  readonly generation_project_id: string | null
  readonly generation_status: GenerationStatus
}

const row: RowSource<GenerationFact, Row> = {
  alias: 'g',
  select: {
    generation_owner_id: 'g.owner_id',
    generation_project_id: 'g.project_id',
    generation_status: 'g.status',
  },
  references: [{ definition: project, column: 'project_id' }],
  toFact: (row) => ({
    ownerId: row.generation_owner_id,
    projectId: row.generation_project_id,
    status: row.generation_status,
  }),
}

export const generation: ResourceDefinition<'generation', GenerationFact> = {
  kind: 'generation',
  schema: exactly({ ownerId: uuid, projectId: orNull(uuid), status: oneOf(generationStatuses) }),
  table: 'generations',
  columns: ['owner_id', 'project_id', 'status'],
  row,
  needs: [{ definition: project, idFor: ({ projectId }) => projectId }],
}
