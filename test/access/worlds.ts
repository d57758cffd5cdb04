import fc from 'fast-check'
import { accessLevels, type ResourceRef, teamRoles, visibilities } from '../../src/access/policy/matrix.ts'
import { idOf } from './random.ts'
import type { World } from './reference-model.ts'

const numbers = (length: number) => Array.from({ length }, (_, index) => index)
const ids = (kind: Parameters<typeof idOf>[0], length: number) => numbers(length).map((number) => idOf(kind, number))

export const users = ids('user', 4)
const teams = ids('team', 3)
const projects = ids('project', 3)
const generations = ids('generation', 4)
const media = ids('media', 4)
const absent = { project: idOf('project', 99), generation: idOf('generation', 99), media: idOf('media', 99) }

const anyUser = fc.constantFrom(...users)

/** Of rows with the same key the last one counts, as in a table. */
const keyed = <T>(rows: readonly T[], keyOf: (row: T) => string): T[] => [
  ...new Map(rows.map((row) => [keyOf(row), row])).values(),
]

/** Small worlds, dense enough that most questions concern existing rows. */
export const anyWorld: fc.Arbitrary<World> = fc
  .record({
    statuses: fc.tuple(
      ...users.map(() =>
        fc.constantFrom('active', 'active', 'active', 'suspended', 'deleted' as World['users'][number]['status']),
      ),
    ),
    operator: fc.nat(users.length),
    factors: fc.tuple(...users.map(() => fc.boolean())),
    requirements: fc.tuple(...teams.map(() => fc.constantFrom(true, false, false))),
    owners: fc.tuple(...teams.map(() => fc.option(anyUser))),
    members: fc.array(
      fc.record({
        team_id: fc.constantFrom(...teams),
        user_id: anyUser,
        role: fc.constantFrom(...teamRoles.filter((role) => role !== 'owner')),
      }),
      { maxLength: 5 },
    ),
    projects: fc.tuple(
      ...projects.map((id) =>
        fc.record({
          id: fc.constant(id),
          owner_id: anyUser,
          visibility: fc.constantFrom(...visibilities),
          allow_derivatives: fc.boolean(),
        }),
      ),
    ),
    grants: fc.array(
      fc.record({
        project_id: fc.constantFrom(...projects),
        team_id: fc.constantFrom(...teams),
        access_level: fc.constantFrom(...accessLevels),
      }),
      { maxLength: 5 },
    ),
    generations: fc.tuple(
      ...generations.map((id) =>
        fc.record({
          id: fc.constant(id),
          owner_id: anyUser,
          project_id: fc.option(fc.constantFrom(...projects), { freq: 3 }),
          completed: fc.constantFrom(true, true, false),
        }),
      ),
    ),
    media: fc.tuple(
      ...media.map((id) =>
        fc.record({
          id: fc.constant(id),
          owner_id: anyUser,
          generation_id: fc.option(fc.constantFrom(...generations), { freq: 3 }),
        }),
      ),
    ),
  })
  .map(({ statuses, operator, owners, factors, requirements, ...drawn }) => ({
    users: users.map((id, at) => ({
      id,
      status: statuses[at] ?? 'active',
      role: at === operator ? 'admin' : 'user',
      second_factor: factors[at] === true,
    })),
    teams: teams.map((id, at) => ({ id, requires_second_factor: requirements[at] === true })),
    members: keyed(
      [
        ...drawn.members,
        ...owners.flatMap((user_id, at) =>
          user_id === null ? [] : [{ team_id: teams[at] as string, user_id, role: 'owner' as const }],
        ),
      ],
      ({ team_id, user_id }) => `${team_id} ${user_id}`,
    ),
    projects: drawn.projects,
    grants: keyed(drawn.grants, ({ project_id, team_id }) => `${project_id} ${team_id}`),
    generations: drawn.generations,
    media: drawn.media,
  }))

/** Every resource of such a world, and one absent resource of each type. */
export const resources: readonly ResourceRef[] = [
  ...[...projects, absent.project].map((id) => ({ type: 'project', id }) as const),
  ...[...generations, absent.generation].map((id) => ({ type: 'generation', id }) as const),
  ...[...media, absent.media].map((id) => ({ type: 'media', id }) as const),
]

export const anyResource = fc.constantFrom(...resources)
export const anyAsker = fc.constantFrom(...users, idOf('user', 99))
export const anyTeam = fc.constantFrom(...teams)
export const anyProject = fc.constantFrom(...projects)
