import type { ResourceRef } from '../access/policy/matrix.ts'
import { Fault } from '../fault.ts'
import type { Generation, Provenance } from './model.ts'
import type { AncestorRow, GenerationRow } from './store.ts'

export const toGeneration = (row: GenerationRow): Generation => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  title: row.title,
  intent: row.intent,
  depth: row.depth,
  model: row.model,
  prompt: row.prompt,
  negative_prompt: row.negative_prompt,
  parameters: row.parameters,
  reference_media_id: row.reference_media_id,
  outputs: row.outputs,
  price: row.price,
  status: row.status,
  progress: row.progress,
  failure: row.failure as Generation['failure'],
  failure_detail: row.failure_detail as Generation['failure_detail'],
  favorite: row.favorite,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
  started_at: row.started_at?.toISOString() ?? null,
  finished_at: row.finished_at?.toISOString() ?? null,
})

export const toAncestor = (row: AncestorRow): Provenance['items'][number] => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  intent: row.intent,
  title: row.title,
  status: row.status,
  created_at: row.created_at.toISOString(),
  distance: row.distance,
})

export const requireFound = <T>(row: T | undefined): T => {
  // Deleted between the decision and this read.
  if (row === undefined) throw new Fault('generation.not_found')
  return row
}

export const generationRef = (id: string): ResourceRef => ({ type: 'generation', id })
export const projectRef = (id: string): ResourceRef => ({ type: 'project', id })
