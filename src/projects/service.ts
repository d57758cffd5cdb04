import type { Access, Caller } from '../access/access.ts'
import type { Changes } from '../access/changes.ts'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { NewProject, Project, ProjectChanges } from './model.ts'
import type { ProjectFilter, ProjectRow, ProjectStore } from './store.ts'

const toProject = (row: ProjectRow): Project => ({
  id: row.id,
  owner_id: row.owner_id,
  name: row.name,
  description: row.description,
  visibility: row.visibility,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

const found = (row: ProjectRow | undefined): Project => {
  // Decided on a moment ago, gone now.
  if (row === undefined) throw new Fault('project.not_found')
  return toProject(row)
}

/** Projects. Whoever calls has been let through for the action of the route; what needs more is asked for here. */
export const createProjects = ({
  store,
  access,
  changes,
}: {
  store: ProjectStore
  access: Access
  changes: Changes
}) => ({
  create: (call: Call, caller: Caller, input: NewProject): Promise<Project> =>
    changes.run(call.deadline, async (tx, touch) => {
      const row = await store.insert(tx, {
        id: newId(),
        owner_id: caller.userId,
        name: input.name,
        description: input.description ?? '',
        visibility: input.visibility ?? 'private',
      })
      touch('project', row.id)
      return toProject(row)
    }),

  get: async (call: Call, id: string): Promise<Project> => found(await store.find(call.deadline, id)),

  list: async (call: Call, caller: Caller, filter: ProjectFilter) => {
    const { items, next_cursor } = toPage(await store.list(call.deadline, caller.userId, filter), filter.limit)
    return { items: items.map(toProject), next_cursor }
  },

  /** Who may see a project is decided by those who administer it. */
  update: async (call: Call, caller: Caller, id: string, input: ProjectChanges): Promise<Project> => {
    if (input.visibility !== undefined) await access.require(caller, 'admin', { type: 'project', id }, call.deadline)
    return changes.run(call.deadline, async (tx, touch) => {
      touch('project', id)
      return found(await store.update(tx, id, input))
    })
  },

  remove: (call: Call, id: string): Promise<void> =>
    changes.run(call.deadline, async (tx, touch) => {
      const orphans = await store.remove(tx, id)
      if (orphans === undefined) throw new Fault('project.not_found')
      touch('project', id)
      for (const orphan of orphans) touch('generation', orphan)
    }),
})

export type Projects = ReturnType<typeof createProjects>
