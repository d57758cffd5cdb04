import { Type as t } from '@sinclair/typebox'
import { exactly, orNull, type ResourceDefinition, type RowSource, uuid } from './definition.ts'
import { generation } from './generation.ts'

/** An output of a generation, or an upload. It is never changed, only deleted. */
export type MediaFact = {
  readonly ownerId: string
  /** Null for an upload. */
  readonly generationId: string | null
  readonly sha256: string
  readonly contentType: string
}

type Row = {
  readonly media_owner_id: string
  readonly media_generation_id: string | null
  readonly media_sha256: string
  readonly media_content_type: string
}

const row: RowSource<MediaFact, Row> = {
  alias: 'm',
  select: {
    media_owner_id: 'm.owner_id',
    media_generation_id: 'm.generation_id',
    media_sha256: 'm.sha256',
    media_content_type: 'o.content_type',
  },
  join: 'left join media_objects o on o.sha256 = m.sha256',
  references: [{ definition: generation, column: 'generation_id' }],
  toFact: (row) => ({
    ownerId: row.media_owner_id,
    generationId: row.media_generation_id,
    sha256: row.media_sha256,
    contentType: row.media_content_type,
  }),
}

export const media: ResourceDefinition<'media', MediaFact> = {
  kind: 'media',
  schema: exactly({
    ownerId: uuid,
    generationId: orNull(uuid),
    sha256: t.String({ pattern: '^[0-9a-f]{64}$' }),
    contentType: t.String({ maxLength: 64 }),
  }),
  table: 'media',
  columns: ['owner_id', 'generation_id', 'sha256'],
  row,
  needs: [{ definition: generation, idFor: ({ generationId }) => generationId }],
}
