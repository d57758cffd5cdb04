import type { Lookup } from '../../../kit/ttl-map.ts'
import type { ResourceRef } from '../matrix.ts'
import type { FactDefinition, Part, ResourceDefinition } from './definition.ts'
import { grant } from './grant.ts'
import { grants, mustLoadGrants } from './grants.ts'
import { type FactQuery, toFactKey } from './queries.ts'
import {
  definitionOf,
  type Fact,
  type FactKey,
  type FactKind,
  factDefinitions,
  factKey,
  partId,
  type ResourceFactKind,
} from './registry.ts'

/** The facts of one resource and one user's access to it. A resource that does not exist has none. */
export type ResourceFacts = { readonly [K in ResourceFactKind]?: Fact[K] | undefined }
type Found = { [K in ResourceFactKind]?: unknown }
type NotFound = { readonly [K in ResourceFactKind]: undefined }

/** Where facts are looked up: memory, Redis, the result of a statement. */
export type Source = <K extends FactKind>(kind: K, id: string) => Lookup<Fact[K]>

/** Called for a fact that the source lacks. `userId`: the load has to include this user's grants. */
export type OnMiss = (kind: FactKind, id: string, userId: string | null) => void

/** Spelled out, because one is made for every decision, and a copy of another costs ten times as much. */
const nothingFound = (): NotFound => ({ project: undefined, generation: undefined, media: undefined, grant: undefined })

export const noResource: ResourceFacts = Object.freeze(nothingFound())

/** The kind whose id is that of the project a grant is on. */
const grantNamedBy = grant.part?.namedBy

export const factIn = <V>(lookup: Lookup<V>): V | undefined => (lookup.kind === 'hit' ? lookup.value : undefined)

/** Looks a part up in its whole, and by itself only where the whole says that it is a separate fact. */
const followPart = (
  source: Source,
  definition: ResourceDefinition,
  part: Part<unknown>,
  id: string,
  userId: string,
  found: Found,
  onMiss: OnMiss,
): boolean => {
  const kind = definition.kind as ResourceFactKind
  const wholeKind = part.whole.kind as FactKind
  const whole = factIn(source(wholeKind, userId))
  const fact = whole === undefined ? 'excluded' : part.read(whole, id)
  if (fact === 'excluded') {
    onMiss(wholeKind, userId, null)
    return false
  }
  found[kind] = fact === 'separate' ? factIn(source(kind, partId(userId, id))) : fact
  if (found[kind] !== undefined) return true
  onMiss(kind, id, userId)
  return false
}

/** Collects a fact and all facts it needs. Stops at the first that the source lacks, names it to `onMiss`, returns false. */
const follow = (
  source: Source,
  definition: FactDefinition,
  id: string,
  userId: string | null,
  found: Found,
  onMiss: OnMiss,
): boolean => {
  const kind = definition.kind as ResourceFactKind
  const { needs } = definition
  const lookup = source(kind, id)
  if (lookup.kind === 'absent') return true
  if (lookup.kind === 'miss') {
    const isResource = needs !== undefined && userId !== null
    const projectId = kind === grantNamedBy ? id : undefined
    onMiss(kind, id, isResource && mustLoadGrants(factIn(source('grants', userId)), projectId) ? userId : null)
    return false
  }
  if (needs === undefined) return true
  found[kind] = lookup.value
  for (const need of needs) {
    const neededId = need.idFor(lookup.value, id, userId)
    if (neededId === null) continue
    const { definition: needed } = need
    const { part } = needed
    if (part === undefined) {
      if (!follow(source, needed, neededId, userId, found, onMiss)) return false
    } else if (userId !== null && !followPart(source, needed, part, neededId, userId, found, onMiss)) return false
  }
  return true
}

const ignore = () => {}

/** The facts about a resource and a user; undefined where the source lacks one, which is named to `onMiss`. */
export const readResource = (
  source: Source,
  { type, id }: ResourceRef,
  userId: string,
  onMiss: OnMiss = ignore,
): ResourceFacts | undefined => {
  const found: Found = nothingFound()
  return follow(source, factDefinitions[type], id, userId, found, onMiss) ? (found as ResourceFacts) : undefined
}

/** Whether the source has every fact that a query needs. Names the first it lacks to `onMiss`. */
export const isAnswered = (source: Source, { kind, id, userId }: FactQuery, onMiss: OnMiss = ignore): boolean => {
  const definition = definitionOf(kind)
  if (definition.part === undefined || userId === null) return follow(source, definition, id, userId, {}, onMiss)
  if (source(kind, partId(userId, id)).kind !== 'miss') return true
  onMiss(kind, id, userId)
  return false
}

/** The keys of the facts that a query needs, as far as the source shows: an unknown fact names no others. */
export const keysNeeded = (source: Source, query: FactQuery): FactKey[] => {
  const { userId } = query
  const keys = [toFactKey(query)]
  const add = (definition: FactDefinition, id: string) => {
    const fact = factIn(source(definition.kind as FactKind, id))
    for (const need of definition.needs ?? []) {
      const { kind, part } = need.definition
      const neededId = fact !== undefined ? need.idFor(fact, id, userId) : need.sharesId ? id : null
      if (neededId === null) continue
      if (part === undefined) {
        keys.push(factKey(kind as FactKind, neededId))
        add(need.definition, neededId)
      } else if (userId !== null) {
        const whole = factIn(source(part.whole.kind as FactKind, userId))
        const isSeparate = whole !== undefined && part.read(whole, neededId) === 'separate'
        if (isSeparate) keys.push(factKey(kind as FactKind, partId(userId, neededId)))
      }
    }
  }
  const definition = definitionOf(query.kind)
  if (definition.needs === undefined || definition.part !== undefined) return keys
  if (userId !== null) keys.push(factKey(grants.kind, userId))
  add(definition, query.id)
  return keys
}
