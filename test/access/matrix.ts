import { idOf } from './random.ts'
import type { World } from './reference-model.ts'

/**
 * The whole matrix of rules 1 to 3, written out by hand from section 3 of the rules: nothing here is computed from the
 * program's own tables.
 */
const all = 'read download create write share delete admin'
const butAdmin = 'read download create write share delete'
const work = 'read download create write share'
const make = 'read download create'
const look = 'read download'
const none = ''

/** A user's relation to a project, and the actions an active account has on it while it is private, team-only, public. */
const standings: [name: string, is: Standing, mayIn: [string, string, string]][] = [
  ['nothing at all', {}, [none, none, look]],
  ['its owner', { owns: true }, [all, all, all]],
  ['viewer of a team that was granted nothing', { role: 'viewer' }, [none, none, look]],
  ['contributor of a team that was granted nothing', { role: 'contributor' }, [none, none, look]],
  ['editor of a team that was granted nothing', { role: 'editor' }, [none, none, look]],
  ['admin of a team that was granted nothing', { role: 'admin' }, [none, none, look]],
  ['owner of a team that was granted nothing', { role: 'owner' }, [none, none, look]],
  ['in no team, one was granted read', { level: 'read' }, [none, none, look]],
  ['in no team, one was granted write', { level: 'write' }, [none, none, look]],
  ['in no team, one was granted admin', { level: 'admin' }, [none, none, look]],
  ['viewer, granted read', { role: 'viewer', level: 'read' }, [none, look, look]],
  ['viewer, granted write', { role: 'viewer', level: 'write' }, [none, look, look]],
  ['viewer, granted admin', { role: 'viewer', level: 'admin' }, [none, look, look]],
  ['contributor, granted read', { role: 'contributor', level: 'read' }, [none, look, look]],
  ['contributor, granted write', { role: 'contributor', level: 'write' }, [none, make, make]],
  ['contributor, granted admin', { role: 'contributor', level: 'admin' }, [none, make, make]],
  ['editor, granted read', { role: 'editor', level: 'read' }, [none, look, look]],
  ['editor, granted write', { role: 'editor', level: 'write' }, [none, work, work]],
  ['editor, granted admin', { role: 'editor', level: 'admin' }, [none, work, work]],
  ['admin, granted read', { role: 'admin', level: 'read' }, [none, look, look]],
  ['admin, granted write', { role: 'admin', level: 'write' }, [none, work, work]],
  ['admin, granted admin', { role: 'admin', level: 'admin' }, [none, all, all]],
  ['owner, granted read', { role: 'owner', level: 'read' }, [none, look, look]],
  ['owner, granted write', { role: 'owner', level: 'write' }, [none, work, work]],
  ['owner, granted admin', { role: 'owner', level: 'admin' }, [none, all, all]],
  ['its owner and a viewer, granted read', { owns: true, role: 'viewer', level: 'read' }, [all, all, all]],
  ['its owner and a viewer, granted nothing', { owns: true, role: 'viewer' }, [all, all, all]],
]

type Standing = {
  owns?: true
  role?: World['members'][number]['role']
  level?: World['grants'][number]['access_level']
}

const visibilities = ['private', 'team-only', 'public'] as const

/** Which of its actions an account keeps in each state. */
const accounts = [
  ['an active account', 'active', 'user', true],
  ['an active operator', 'active', 'admin', true],
  ['a suspended account', 'suspended', 'user', false],
  ['a suspended operator', 'suspended', 'admin', false],
  ['a deleted account', 'deleted', 'user', false],
] as const

export type Cell = {
  name: string
  userId: string
  resource: { type: 'project' | 'generation'; id: string }
  /** Action names in their order, with a space between. */
  may: string
}

let count = 0
const next = (kind: Parameters<typeof idOf>[0]) => {
  count += 1
  return idOf(kind, count)
}

/** A world that contains every class of question, and the expected actions of each class. */
export const matrix = (): { world: World; cells: Cell[] } => {
  const world: World = { users: [], teams: [], members: [], projects: [], grants: [], generations: [] }
  const cells: Cell[] = []
  const addUser = (status: World['users'][number]['status'], role: 'user' | 'admin') => {
    const id = next('user')
    world.users.push({ id, status, role })
    return id
  }
  const somebody = addUser('active', 'user')
  const addGeneration = (owner_id: string, project_id: string | null) => {
    const id = next('generation')
    world.generations.push({ id, owner_id, project_id })
    return { type: 'generation', id } as const
  }
  for (const [account, status, platformRole, counts] of accounts) {
    const userId = addUser(status, platformRole)
    const add = (name: string, resource: Cell['resource'], may: string) =>
      cells.push({ name: `${account}: ${name}`, userId, resource, may: counts ? may : none })

    add('no such project', { type: 'project', id: next('project') }, none)
    add('no such generation', { type: 'generation', id: next('generation') }, none)
    add('own generation outside a project', addGeneration(userId, null), butAdmin)
    add('another’s generation outside a project', addGeneration(somebody, null), none)
    for (const [name, { owns, role, level }, mayIn] of standings) {
      for (const [column, visibility] of visibilities.entries()) {
        const id = next('project')
        world.projects.push({ id, owner_id: owns ? userId : somebody, visibility, allow_derivatives: true })
        if (role !== undefined || level !== undefined) {
          const team = next('team')
          world.teams.push({ id: team })
          if (role !== 'owner') world.members.push({ team_id: team, user_id: somebody, role: 'owner' })
          if (role !== undefined) world.members.push({ team_id: team, user_id: userId, role })
          if (level !== undefined) world.grants.push({ project_id: id, team_id: team, access_level: level })
        }
        const may = mayIn[column] as string
        add(`${name}, ${visibility} project`, { type: 'project', id }, may)
        add(`${name}, another’s generation in a ${visibility} project`, addGeneration(somebody, id), may)
        add(`${name}, own generation in a ${visibility} project`, addGeneration(userId, id), butAdmin)
      }
    }
  }
  return { world, cells }
}
