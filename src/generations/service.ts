import type { Access, Caller } from '../access/access.ts'
import type { Changes } from '../access/changes.ts'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { Generation, NewGeneration } from './model.ts'
import type { GenerationFilter, GenerationRow, GenerationStore } from './store.ts'

const toGeneration = (row: GenerationRow): Generation => ({
  id: row.id,
  owner_id: row.owner_id,
  project_id: row.project_id,
  model: row.model,
  prompt: row.prompt,
  status: row.status,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

/** Generations as records. Whoever calls has been let through for the action of the route. */
export const createGenerations = ({
  store,
  access,
  changes,
}: {
  store: GenerationStore
  access: Access
  changes: Changes
}) => ({
  create: async (call: Call, caller: Caller, input: NewGeneration): Promise<Generation> => {
    const { project_id, model, prompt } = input
    if (project_id !== undefined) {
      await access.require(caller, 'create', { type: 'project', id: project_id }, call.deadline)
    }
    return changes.run(call.deadline, async (tx, touch) => {
      const row = await store.insert(tx, {
        id: newId(),
        owner_id: caller.userId,
        project_id: project_id ?? null,
        model,
        prompt,
      })
      if (row === undefined) throw new Fault('project.not_found')
      touch('generation', row.id)
      return toGeneration(row)
    })
  },

  get: async (call: Call, id: string): Promise<Generation> => {
    const row = await store.find(call.deadline, id)
    if (row === undefined) throw new Fault('generation.not_found')
    return toGeneration(row)
  },

  list: async (call: Call, caller: Caller, filter: GenerationFilter) => {
    const { items, next_cursor } = toPage(await store.list(call.deadline, caller.userId, filter), filter.limit)
    return { items: items.map(toGeneration), next_cursor }
  },

  remove: (call: Call, id: string): Promise<void> =>
    changes.run(call.deadline, async (tx, touch) => {
      if (!(await store.remove(tx, id))) throw new Fault('generation.not_found')
      touch('generation', id)
    }),
})

export type Generations = ReturnType<typeof createGenerations>
