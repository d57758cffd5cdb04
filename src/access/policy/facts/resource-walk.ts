import type { Lookup } from '../../../kit/ttl-map.ts'
import type { ResourceRef } from '../matrix.ts'
import {
  type Fact,
  type FactKind,
  type GenerationFact,
  type GrantFact,
  grantId,
  type MediaFact,
  type ProjectFact,
} from './model.ts'

/** A thing as one person has it: what it is, and what was granted to that person. */
export type ResourceFacts = {
  readonly project: ProjectFact | undefined
  readonly generation: GenerationFact | undefined
  readonly media?: MediaFact | undefined
  readonly grant: GrantFact | undefined
}

/** Whatever can be asked for a fact: memory, another cache, what was just read. */
export type Source = <K extends FactKind>(kind: K, id: string) => Lookup<Fact[K]>

export const noResource: ResourceFacts = Object.freeze({ project: undefined, generation: undefined, grant: undefined })

export const factIn = <V>(lookup: Lookup<V>): V | undefined => (lookup.kind === 'hit' ? lookup.value : undefined)

/** `userId` where what was granted to that person is missing too. */
export type OnMiss = (kind: FactKind, id: string, userId: string | null) => void

/**
 * Whoever's grants a question about an unknown thing has to bring along: nobody's, where they are known. Which project it is
 * in may be unknown too: it may be any.
 */
const unknownGrantsOf = (source: Source, userId: string, projectId?: string): string | null => {
  const grants = factIn(source('grants', userId))
  if (grants === undefined || grants === 'many') return userId
  const mayBeExcepted = projectId === undefined ? grants.except !== undefined : grants.except?.includes(projectId)
  return mayBeExcepted ? userId : null
}

const readGrant = (source: Source, projectId: string, userId: string, onMiss: OnMiss): GrantFact | undefined => {
  const grants = factIn(source('grants', userId))
  if (grants === undefined) return void onMiss('grants', userId, null)
  if (grants !== 'many') {
    return grants.except?.includes(projectId) ? void onMiss('grants', userId, null) : (grants.granted[projectId] ?? 0)
  }
  const grant = factIn(source('grant', grantId(userId, projectId)))
  if (grant === undefined) onMiss('grant', projectId, userId)
  return grant
}

/** Reads a project's facts for one person; of a grant only where one could matter. */
const readProject = (
  source: Source,
  projectId: string,
  userId: string,
  onMiss: OnMiss,
): Pick<ResourceFacts, 'project' | 'grant'> | undefined => {
  const lookup = source('project', projectId)
  if (lookup.kind === 'miss') return void onMiss('project', projectId, unknownGrantsOf(source, userId, projectId))
  if (lookup.kind === 'absent') return noResource
  const project = lookup.value
  if (project.ownerId === userId || project.visibility === 'private') return { project, grant: undefined }
  const grant = readGrant(source, projectId, userId, onMiss)
  return grant === undefined ? undefined : { project, grant }
}

/** Reads a generation's facts for one person. */
const readGeneration = (source: Source, id: string, userId: string, onMiss: OnMiss): ResourceFacts | undefined => {
  const lookup = source('generation', id)
  if (lookup.kind === 'miss') return void onMiss('generation', id, unknownGrantsOf(source, userId))
  if (lookup.kind === 'absent') return noResource
  const generation = lookup.value
  if (generation.projectId === null) return { project: undefined, generation, grant: undefined }
  const found = readProject(source, generation.projectId, userId, onMiss)
  return found && { project: found.project, generation, grant: found.grant }
}

const readMedia = (source: Source, id: string, userId: string, onMiss: OnMiss): ResourceFacts | undefined => {
  const lookup = source('media', id)
  if (lookup.kind === 'miss') return void onMiss('media', id, unknownGrantsOf(source, userId))
  if (lookup.kind === 'absent') return noResource
  const media = lookup.value
  if (media.generationId === null) return { ...noResource, media }
  const found = readGeneration(source, media.generationId, userId, onMiss)
  return found && { project: found.project, generation: found.generation, media, grant: found.grant }
}

/** Reads a thing's facts from a source; where one is missing, names it to `onMiss` and returns undefined. */
export const readResource = (
  source: Source,
  { type, id }: ResourceRef,
  userId: string,
  onMiss: OnMiss,
): ResourceFacts | undefined => {
  if (type === 'media') return readMedia(source, id, userId, onMiss)
  if (type === 'generation') return readGeneration(source, id, userId, onMiss)
  const found = readProject(source, id, userId, onMiss)
  return found && { project: found.project, generation: undefined, grant: found.grant }
}

export const ignore = () => {}
