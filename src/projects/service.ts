import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Place } from '../access/listing/listing-store.ts'
import {
  type Action,
  accessLevels,
  actions,
  generationStatuses,
  intents,
  isAbove,
  type ResourceRef,
} from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import type { TransactionalAccess } from '../access/transactional-access.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type {
  Grant,
  GrantChanges,
  NewGrant,
  NewProject,
  Project,
  ProjectChanges,
  ProjectWithPermissions,
  Stats,
  Transfer,
} from './model.ts'
import type { GrantRow, ProjectFilter, ProjectRow, ProjectStore, StatsRow } from './store.ts'

const toProject = (row: ProjectRow): Project => ({
  id: row.id,
  owner_id: row.owner_id,
  name: row.name,
  description: row.description,
  visibility: row.visibility,
  allow_derivatives: row.allow_derivatives,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

const toGrant = (row: GrantRow): Grant => ({
  project_id: row.project_id,
  team_id: row.team_id,
  team_name: row.team_name,
  access_level: row.access_level,
  granted_by: row.granted_by,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

const sum = (rows: readonly { count: number }[]): number => rows.reduce((total, { count }) => total + count, 0)

/** How many each name has, those that have none included. */
const countBy = <N extends string, R extends { count: number }>(
  names: readonly N[],
  rows: readonly R[],
  nameOf: (row: R) => N,
) =>
  Object.fromEntries(names.map((name) => [name, sum(rows.filter((row) => nameOf(row) === name))])) as Record<N, number>

const toStats = ({ generations, grants, people }: StatsRow): Stats => ({
  generations: {
    total: sum(generations),
    by_status: countBy(generationStatuses, generations, ({ status }) => status),
    by_intent: countBy(intents, generations, ({ intent }) => intent),
  },
  grants: { total: sum(grants), by_access_level: countBy(accessLevels, grants, ({ access_level }) => access_level) },
  people,
})

const found = <T>(thing: T | undefined): T => {
  // Decided on a moment ago, gone now.
  if (thing === undefined) throw new Fault('project.not_found')
  return thing
}

const refOf = (id: string): ResourceRef => ({ type: 'project', id })

/**
 * Projects, and the teams that are let into them. Whoever calls has been let through for the action of the route; what
 * changes who may do what is decided on again under the project's lock, so that such changes have an order and each was
 * allowed at its place in it.
 */
export const createProjects = ({
  store,
  access,
  transactionalAccess,
  changes,
}: {
  store: ProjectStore
  access: Access
  transactionalAccess: TransactionalAccess
  changes: Changes
}) => {
  /** Locks a project and decides again; returns its owner. */
  const lockFor = async (tx: TransactionSql, context: RequestContext, caller: Caller, action: Action, id: string) => {
    const { owner_id } = found(await store.lock(tx, id))
    await transactionalAccess(tx).require(caller, action, refOf(id), context.deadline)
    return owner_id
  }

  return {
    create: (context: RequestContext, caller: Caller, input: NewProject): Promise<Project> =>
      changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const row = await store.insert(tx, {
            id: newId(),
            owner_id: caller.userId,
            name: input.name,
            description: input.description ?? '',
            visibility: input.visibility ?? 'private',
            allow_derivatives: input.allow_derivatives ?? true,
          })
          return toProject(row)
        },
        { grantsOnly: true },
      ),

    /** What the caller may do on it is known from letting it through. */
    get: async (context: RequestContext, caller: Caller, id: string): Promise<ProjectWithPermissions> => {
      const project = toProject(found(await store.find(context.deadline, id)))
      const questions = actions.map((action) => ({ userId: caller.userId, action, resource: refOf(id) }))
      const decisions = await access.decideMany(questions, context.deadline)
      return { ...project, permissions: actions.filter((_, index) => decisions[index]?.allowed) }
    },

    list: async (context: RequestContext, caller: Caller, filter: ProjectFilter) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, filter), filter.limit)
      return { items: items.map(toProject), next_cursor }
    },

    /** Who may see a project, and what others may make of it, is decided by those who administer it. */
    update: (context: RequestContext, caller: Caller, id: string, input: ProjectChanges): Promise<Project> => {
      const opens = input.visibility !== undefined || input.allow_derivatives !== undefined
      return changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockFor(tx, context, caller, opens ? 'admin' : 'write', id)
        return toProject(await store.update(tx, id, input))
      })
    },

    remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        if (!(await store.lockForRemoval(tx, id))) throw new Fault('project.not_found')
        await transactionalAccess(tx).require(caller, 'delete', refOf(id), context.deadline)
        await store.remove(tx, id)
      }),

    /** From the owner to somebody who sees the project through a team; to administer it is not enough to give it away. */
    transfer: (
      context: RequestContext,
      caller: Caller,
      id: string,
      { owner_id: newOwnerId }: Transfer,
    ): Promise<Project> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        const ownerId = await lockFor(tx, context, caller, 'admin', id)
        if (ownerId !== caller.userId) throw new Fault('access.denied')
        if (!(await store.seesThroughTeam(tx, id, newOwnerId))) throw new Fault('project.new_owner_unfit')
        return toProject(await store.update(tx, id, { owner_id: newOwnerId }))
      }),

    stats: async (context: RequestContext, id: string): Promise<Stats> =>
      toStats(found(await store.stats(context.deadline, id))),

    listGrants: async (context: RequestContext, id: string, place: Place) => {
      const { items, next_cursor } = toPage(await store.listGrants(context.deadline, id, place), place.limit)
      return { items: items.map(toGrant), next_cursor }
    },

    /** Takes both sides: `admin` on the project, and owner or admin of the team. */
    addGrant: (context: RequestContext, caller: Caller, id: string, input: NewGrant): Promise<Grant> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockFor(tx, context, caller, 'admin', id)
        const role = await store.lockTeamRole(tx, id, input.team_id, caller.userId)
        if (role === undefined) throw new Fault('team.not_found')
        if (!isAbove(role, 'editor')) throw new Fault('team.role_too_low')
        return toGrant(await store.insertGrant(tx, { project_id: id, granted_by: caller.userId, ...input }))
      }),

    updateGrant: (
      context: RequestContext,
      caller: Caller,
      id: string,
      teamId: string,
      input: GrantChanges,
    ): Promise<Grant> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockFor(tx, context, caller, 'admin', id)
        const row = await store.updateGrant(tx, id, teamId, input.access_level)
        if (row === undefined) throw new Fault('project.grant_not_found')
        return toGrant(row)
      }),

    removeGrant: (context: RequestContext, caller: Caller, id: string, teamId: string): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockFor(tx, context, caller, 'admin', id)
        if (!(await store.removeGrant(tx, id, teamId))) throw new Fault('project.grant_not_found')
      }),
  }
}

export type Projects = ReturnType<typeof createProjects>
