import type { Access, Caller } from '../access/access.ts'
import type { Changes } from '../access/changes.ts'
import type { AccessInside } from '../access/inside.ts'
import type { ResourceRef } from '../access/model.ts'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import {
  type Favorite,
  type Generation,
  type GenerationChanges,
  maxDepth,
  type NewGeneration,
  type Provenance,
} from './model.ts'
import type { AncestorRow, GenerationFilter, GenerationRow, GenerationStore } from './store.ts'

const toGeneration = (row: GenerationRow): Generation => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  title: row.title,
  intent: row.intent,
  depth: row.depth,
  model: row.model,
  prompt: row.prompt,
  status: row.status,
  favorite: row.favorite,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

const toAncestor = (row: AncestorRow): Provenance['items'][number] => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  intent: row.intent,
  title: row.title,
  status: row.status,
  created_at: row.created_at.toISOString(),
  distance: row.distance,
})

const found = <T>(thing: T | undefined): T => {
  // Decided on a moment ago, gone now.
  if (thing === undefined) throw new Fault('generation.not_found')
  return thing
}

const refOf = (id: string): ResourceRef => ({ type: 'generation', id })
const projectOf = (id: string): ResourceRef => ({ type: 'project', id })

const invalid = (pointer: string, detail: string) =>
  new Fault('request.invalid', { problems: [{ in: 'body', pointer, detail }] })

/** A parent and an intent that is about one go together. */
const checkLineage = ({ parent_id, intent = 'original' }: NewGeneration): void => {
  if (parent_id === undefined && intent !== 'original') throw invalid('/parent_id', 'This intent needs a parent')
  if (parent_id !== undefined && intent === 'original') throw invalid('/intent', 'A child is not an original')
}

/**
 * Generations as records. Whoever calls has been let through for the action of the route; what moves or removes one is
 * decided on again under its lock.
 */
export const createGenerations = ({
  store,
  access,
  accessInside,
  changes,
}: {
  store: GenerationStore
  access: Access
  accessInside: AccessInside
  changes: Changes
}) => ({
  /** The project and the parent it was asked for are there when it is made, or nothing is made. */
  create: async (call: Call, caller: Caller, input: NewGeneration): Promise<Generation> => {
    checkLineage(input)
    const { project_id = null, parent_id, model, prompt, title = '', intent = 'original' } = input
    if (project_id !== null) await access.require(caller, 'create', projectOf(project_id), call.deadline)
    if (parent_id !== undefined) await access.requireDerivation(caller, parent_id, call.deadline)
    return changes.run(call.deadline, async (tx, touch) => {
      if (project_id !== null && !(await store.keepProject(tx, project_id))) throw new Fault('project.not_found')
      const ancestor_ids = parent_id === undefined ? [] : [parent_id, ...found(await store.keepParent(tx, parent_id))]
      if (ancestor_ids.length > maxDepth) throw new Fault('generation.too_deep')
      const owner_id = caller.userId
      const row = await store.insert(tx, {
        id: newId(),
        owner_id,
        project_id,
        title,
        intent,
        ancestor_ids,
        model,
        prompt,
      })
      touch('generation', row.id)
      return toGeneration(row)
    })
  },

  get: async (call: Call, caller: Caller, id: string): Promise<Generation> =>
    toGeneration(found(await store.find(call.deadline, id, caller.userId))),

  list: async (call: Call, caller: Caller, filter: GenerationFilter) => {
    const { items, next_cursor } = toPage(await store.list(call.deadline, caller.userId, filter), filter.limit)
    return { items: items.map(toGeneration), next_cursor }
  },

  /** A chain is as long for everyone; each ancestor is shown or counted as the caller may read it, and nothing else. */
  provenance: async (call: Call, caller: Caller, id: string): Promise<Provenance> => {
    const { depth, ancestors } = found(await store.findAncestors(call.deadline, id))
    const decisions = await access.decideMany(
      ancestors.map((ancestor) => ({ userId: caller.userId, action: 'read', resource: refOf(ancestor.id) })),
      call.deadline,
    )
    const items = ancestors.filter((_, index) => decisions[index]?.allowed).map(toAncestor)
    return { items, hidden: depth - items.length }
  },

  /** A new title is written; a move takes it from where it is, which needs `delete`, to where one may `create`. */
  update: (call: Call, caller: Caller, id: string, input: GenerationChanges): Promise<Generation> =>
    changes.run(call.deadline, async (tx, touch) => {
      if (!(await store.lock(tx, id))) throw new Fault('generation.not_found')
      const inside = accessInside(tx)
      if (input.title !== undefined) await inside.require(caller, 'write', refOf(id), call.deadline)
      if (input.project_id !== undefined) await inside.require(caller, 'delete', refOf(id), call.deadline)
      if (typeof input.project_id === 'string') {
        if (!(await store.keepProject(tx, input.project_id))) throw new Fault('project.not_found')
        await inside.require(caller, 'create', projectOf(input.project_id), call.deadline)
      }
      touch('generation', id)
      return toGeneration(await store.update(tx, id, input, caller.userId))
    }),

  favorite: (call: Call, caller: Caller, id: string, { favorite }: Favorite): Promise<Generation> =>
    changes.run(call.deadline, async (tx) => {
      await store.setFavorite(tx, id, caller.userId, favorite)
      return toGeneration(found(await store.find(call.deadline, id, caller.userId, tx)))
    }),

  remove: (call: Call, caller: Caller, id: string): Promise<void> =>
    changes.run(call.deadline, async (tx, touch) => {
      if (!(await store.lock(tx, id))) throw new Fault('generation.not_found')
      await accessInside(tx).require(caller, 'delete', refOf(id), call.deadline)
      await store.remove(tx, id)
      touch('generation', id)
    }),
})

export type Generations = ReturnType<typeof createGenerations>
