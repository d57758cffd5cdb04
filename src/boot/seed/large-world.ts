import { createRandom, type Random } from '../../kit/random.ts'

export type WorldSize = {
  readonly users: number
  readonly teams: number
  readonly projects: number
  readonly generations: number
}

/** Everybody in a seeded world has this password. */
export const seedPassword = 'correct horse battery'

/** Rows of one table in the text format of COPY. */
export type Table = {
  readonly name: string
  readonly columns: readonly string[]
  readonly rows: number
  /** Each item is one row without its end of line. */
  lines(): Iterable<string>
}

export const seedEmail = (seed: number, user: number): string => `person-${user}@seed-${seed}.example.com`

const startMs = Date.UTC(2024, 0, 1)
const dayMs = 86_400_000
/** Days of the year on which the rows of a kind are made: the first and the last. */
const days = { user: [0, 90], team: [30, 120], project: [60, 150], generation: [150, 365], entry: [90, 91] } as const

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** When row `number` of `total` was made. The rows of a kind are spread evenly, so ids sort by number. */
const timeOf = (kind: keyof typeof days, number: number, total: number): number => {
  const [first, last] = days[kind]
  return Math.floor(startMs + (first + ((last - first) * number) / total) * dayMs)
}

/**
 * A UUID version 7 of that time, unique among the rows of its kind: the number of the row is in it, multiplied by an odd
 * constant, which maps 32 bits to 32 bits one to one.
 */
const idAt = (atMs: number, number: number, { below }: Random): string => {
  const time = hex(atMs, 12)
  const mixed = hex(Math.imul(number, 0x9e3779b1) >>> 0, 8)
  const variant = hex(0x8000 + below(0x4000), 4)
  return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(below(0x1000), 3)}-${variant}-${hex(below(0x1_0000), 4)}${mixed}`
}

const idsOf = (kind: keyof typeof days, total: number, random: Random): string[] =>
  Array.from({ length: total }, (_, number) => idAt(timeOf(kind, number, total), number, random))

const timestamp = (atMs: number) => new Date(atMs).toISOString()

type Member = { readonly user: number; readonly role: string }

const memberRoles = ['admin', 'editor', 'editor', 'contributor', 'contributor', 'viewer', 'viewer', 'viewer'] as const

/** One owner and 1 to 18 others. */
const membersOfTeams = ({ users, teams }: WorldSize, random: Random): Member[][] =>
  Array.from({ length: teams }, () => {
    const chosen = new Set<number>()
    for (let left = Math.min(users, 2 + random.below(18)); left > 0; left -= 1) chosen.add(random.below(users))
    return [...chosen].map((user, index) => ({ user, role: index === 0 ? 'owner' : random.pick(memberRoles) }))
  })

type Project = { readonly owner: number; readonly visibility: string; readonly teams: readonly number[] }

/** Of 100 projects 2 are public, 40 private, and the others are shared with one to three teams. */
const projectsOf = ({ users, teams, projects }: WorldSize, random: Random): Project[] =>
  Array.from({ length: projects }, () => {
    const share = random.below(100)
    const visibility = share < 2 ? 'public' : share < 42 ? 'private' : 'team-only'
    const granted = new Set<number>()
    const grants = visibility === 'team-only' && teams > 0 ? 1 + random.below(3) : 0
    for (let left = grants; left > 0; left -= 1) granted.add(random.below(teams))
    return { owner: random.below(users), visibility, teams: [...granted] }
  })

const planAt = (user: number) => (user % 50 === 0 ? 'enterprise' : user % 5 === 1 ? 'pro' : 'free')

const accountTables = (ids: readonly string[], seed: number, passwordHash: string, random: Random): Table[] => {
  const entryIds = idsOf('entry', ids.length, random)
  const rows = ids.length
  const createdAt = (user: number) => timestamp(timeOf('user', user, rows))
  return [
    {
      name: 'users',
      columns: [
        'id',
        'email',
        'display_name',
        'password_hash',
        'plan',
        'created_at',
        'updated_at',
        'email_verified_at',
      ],
      rows,
      *lines() {
        for (const [user, id] of ids.entries()) {
          const at = createdAt(user)
          yield `${id}\t${seedEmail(seed, user)}\tPerson ${user}\t${passwordHash}\t${planAt(user)}\t${at}\t${at}\t${at}`
        }
      },
    },
    {
      name: 'credit_ledger',
      columns: ['id', 'user_id', 'kind', 'amount', 'balance_after', 'created_at'],
      rows,
      *lines() {
        const at = timestamp(timeOf('entry', 0, 1))
        for (const [user, id] of ids.entries()) yield `${entryIds[user]}\t${id}\twelcome\t1000000\t1000000\t${at}`
      },
    },
    {
      name: 'credit_balances',
      columns: ['user_id', 'balance'],
      rows,
      *lines() {
        for (const id of ids) yield `${id}\t1000000`
      },
    },
  ]
}

const teamTables = (users: readonly string[], teams: readonly string[], members: readonly Member[][]): Table[] => {
  const createdAt = (team: number) => timestamp(timeOf('team', team, teams.length))
  return [
    {
      name: 'teams',
      columns: ['id', 'name', 'max_members', 'created_at', 'updated_at'],
      rows: teams.length,
      *lines() {
        for (const [team, id] of teams.entries())
          yield `${id}\tTeam ${team}\t50\t${createdAt(team)}\t${createdAt(team)}`
      },
    },
    {
      name: 'team_members',
      columns: ['team_id', 'user_id', 'role', 'joined_at'],
      rows: members.reduce((total, { length }) => total + length, 0),
      *lines() {
        for (const [team, all] of members.entries()) {
          const at = createdAt(team)
          for (const { user, role } of all) yield `${teams[team]}\t${users[user]}\t${role}\t${at}`
        }
      },
    },
  ]
}

const projectTables = (
  users: readonly string[],
  teams: readonly string[],
  ids: readonly string[],
  projects: readonly Project[],
): Table[] => {
  const createdAt = (project: number) => timestamp(timeOf('project', project, ids.length))
  return [
    {
      name: 'projects',
      columns: ['id', 'owner_id', 'name', 'visibility', 'created_at', 'updated_at'],
      rows: ids.length,
      *lines() {
        for (const [project, { owner, visibility }] of projects.entries()) {
          const at = createdAt(project)
          yield `${ids[project]}\t${users[owner]}\tProject ${project}\t${visibility}\t${at}\t${at}`
        }
      },
    },
    {
      name: 'project_grants',
      columns: ['project_id', 'team_id', 'access_level', 'granted_by', 'created_at', 'updated_at'],
      rows: projects.reduce((total, project) => total + project.teams.length, 0),
      *lines() {
        for (const [project, { owner, teams: granted }] of projects.entries()) {
          const at = createdAt(project)
          for (const [index, team] of granted.entries()) {
            const level = ['write', 'read', 'admin'][(project + index) % 3]
            yield `${ids[project]}\t${teams[team]}\t${level}\t${users[owner]}\t${at}\t${at}`
          }
        }
      },
    },
  ]
}

/**
 * Nine in ten generations are in a project, by its owner or by a member of a team that it is shared with. One in five has a
 * parent there.
 */
const generationTable = (
  users: readonly string[],
  projectIds: readonly string[],
  projects: readonly Project[],
  members: readonly Member[][],
  { rows, seed }: { rows: number; seed: number },
): Table => ({
  name: 'generations',
  columns: [
    ...[
      'id',
      'owner_id',
      'project_id',
      'model',
      'prompt',
      'title',
      'intent',
      'ancestor_ids',
      'status',
      'failure',
      'price',
    ],
    ...['created_at', 'updated_at', 'started_at', 'finished_at'],
  ],
  rows,
  *lines() {
    const random = createRandom(seed)
    const { below, chance, pick } = random
    /** The last generation of each project and its ancestors, nearest first. */
    const lineage = new Map<number, readonly string[]>()
    for (let number = 0; number < rows; number += 1) {
      const atMs = timeOf('generation', number, rows)
      const id = idAt(atMs, number, random)
      const project = projects.length > 0 && chance(0.9) ? below(projects.length) : undefined
      const home = project === undefined ? undefined : projects[project]
      const team = home === undefined || home.teams.length === 0 || chance(0.5) ? [] : (members[pick(home.teams)] ?? [])
      const owner = team.length > 0 ? pick(team).user : (home?.owner ?? below(users.length))
      const before = project === undefined ? undefined : lineage.get(project)
      const ancestors = before !== undefined && before.length < 8 && chance(0.2) ? before : []
      if (project !== undefined) lineage.set(project, [id, ...ancestors])
      const outcome = below(100)
      const status = outcome < 97 ? 'completed' : outcome < 99 ? 'failed' : 'cancelled'
      const at = timestamp(atMs)
      yield [
        ...[id, users[owner], project === undefined ? '\\N' : projectIds[project], 'local/procedural'],
        ...[`a lighthouse at dusk, number ${number}`, `Picture ${number}`],
        ...[ancestors.length > 0 ? 'iterate' : 'original', `{${ancestors.join(',')}}`, status],
        ...[status === 'failed' ? 'timeout' : '\\N', '0', at, at, at, at],
      ].join('\t')
    }
  },
})

/**
 * A world of any size whose ids, names, times and structure follow from its seed alone: accounts with credits, teams,
 * projects in all three visibilities, grants, and finished generations with a lineage. Tables come in the order in which
 * they refer to each other.
 */
export const createLargeWorld = (size: WorldSize, seed: number, passwordHash: string) => {
  const randomFor = (part: number) => createRandom(seed * 101 + part)
  const users = idsOf('user', size.users, randomFor(1))
  const teams = idsOf('team', size.teams, randomFor(2))
  const projectIds = idsOf('project', size.projects, randomFor(3))
  const members = membersOfTeams(size, randomFor(4))
  const projects = projectsOf(size, randomFor(5))
  const tables: readonly Table[] = [
    ...accountTables(users, seed, passwordHash, randomFor(6)),
    ...teamTables(users, teams, members),
    ...projectTables(users, teams, projectIds, projects),
    generationTable(users, projectIds, projects, members, { rows: size.generations, seed: seed * 101 + 7 }),
  ]
  return { users, tables }
}
