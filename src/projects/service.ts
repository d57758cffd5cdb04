import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Place } from '../access/listing/listing-store.ts'
import {
  type AccessLevel,
  type Action,
  accessLevels,
  actions,
  generationStatuses,
  intents,
  isAbove,
  type ResourceRef,
  type Visibility,
  visibilities,
} from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { requireSignedInForShare, type TransactionalAccess } from '../access/transactional-access.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import { requireNarrowing } from '../http/narrowing.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { allInOrder } from '../kit/async.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { Quotas } from '../limits/quotas.ts'
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
import { findGrantLevel, findVisibility } from './narrowing-store.ts'
import type { GrantRow, ProjectFilter, ProjectRow, ProjectStore, StatsRow } from './store.ts'

const recordProject = recorderOf('project')

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

/** The number of rows for each name, including 0. */
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

/** The guard has found the project already: it was deleted after that. */
const requireFound = <T>(found: T | undefined): T => {
  if (found === undefined) throw new Fault('project.not_found')
  return found
}

const refOf = (id: string): ResourceRef => ({ type: 'project', id })

type LockAndRequire = (
  tx: TransactionSql,
  context: RequestContext,
  caller: Caller,
  action: Action,
  id: string,
  granted?: { readonly grantedTeam?: string },
) => Promise<string>

/**
 * Locks a project and its teams for no key update, and another team that it is granted to, and checks the action again.
 * Returns the owner.
 */
const createLock =
  (store: ProjectStore, transactionalAccess: TransactionalAccess): LockAndRequire =>
  async (tx, context, caller, action, id, granted = {}) => {
    const subjects = { changedProject: id, ...granted }
    const [, locked] = await allInOrder([
      () => transactionalAccess(tx).lockAndRequire(caller, subjects, action, refOf(id), context.deadline),
      () => store.lockForNoKeyUpdate(tx, id),
    ])
    return requireFound(locked).owner_id
  }

const isLower = (level: AccessLevel, before: AccessLevel): boolean =>
  accessLevels.indexOf(level) <= accessLevels.indexOf(before)

/** Whether a change of a project only takes access away. */
const isNarrower = (
  { visibility, allow_derivatives, ...others }: ProjectChanges,
  before: Visibility | undefined,
): boolean =>
  before !== undefined &&
  Object.keys(others).length === 0 &&
  allow_derivatives !== true &&
  (visibility === undefined || visibilities.indexOf(visibility) <= visibilities.indexOf(before))

/** The grants of a project to teams. */
const createGrants = (store: ProjectStore, changes: Changes, lockAndRequire: LockAndRequire) => ({
  listGrants: async (context: RequestContext, id: string, place: Place) => {
    const { items, next_cursor } = toPage(await store.listGrants(context.deadline, id, place), place.limit)
    return { items: items.map(toGrant), next_cursor }
  },

  /** Needs both `admin` on the project and the role admin or owner in the team. */
  addGrant: (context: RequestContext, caller: Caller, id: string, input: NewGrant): Promise<Grant> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      await lockAndRequire(tx, context, caller, 'admin', id, { grantedTeam: input.team_id })
      const member = await store.lockTeamsAndFindMember(tx, id, input.team_id, caller.userId)
      if (member === undefined) throw new Fault('team.not_found')
      if (member.barred) throw new Fault('team.second_factor_required')
      if (!isAbove(member.role, 'editor')) throw new Fault('team.role_too_low')
      recordProject(tx, context, caller, id, 'grant.created', {
        teamId: input.team_id,
        after: { access_level: input.access_level },
      })
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
      await lockAndRequire(tx, context, caller, 'admin', id)
      if (context.onlyNarrowing) {
        const level = await findGrantLevel(tx, id, teamId)
        requireNarrowing(context, level === undefined || isLower(input.access_level, level))
      }
      recordProject(tx, context, caller, id, 'grant.changed', { teamId, after: { access_level: input.access_level } })
      const row = await store.updateGrant(tx, id, teamId, input.access_level)
      if (row === undefined) throw new Fault('project.grant_not_found')
      return toGrant(row)
    }),

  removeGrant: (context: RequestContext, caller: Caller, id: string, teamId: string): Promise<void> =>
    changes.commitAndInvalidate(context.deadline, async (tx, lastly) => {
      await lockAndRequire(tx, context, caller, 'admin', id)
      recordProject(tx, context, caller, id, 'grant.withdrawn', { teamId })
      lastly(async () => {
        if (!(await store.removeGrant(tx, id, teamId))) throw new Fault('project.grant_not_found')
      })
    }),
})

/**
 * Projects, and the grants of teams on them.
 *
 * The guard has checked the action of the route. A change is checked again under the lock of the project: changes of one
 * project are serialized, and each is allowed at its place in that order.
 */
export const createProjects = ({
  store,
  access,
  transactionalAccess,
  changes,
  quotas,
  record,
}: {
  store: ProjectStore
  access: Access
  transactionalAccess: TransactionalAccess
  changes: Changes
  quotas: Pick<Quotas, 'require'>
  record: RecordSecurityEvent
}) => {
  const lockAndRequire = createLock(store, transactionalAccess)

  return {
    create: (context: RequestContext, caller: Caller, input: NewProject): Promise<Project> =>
      changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await requireSignedInForShare(tx, caller)
          await quotas.require(tx, caller.userId, { projects: 1 })
          const id = newId()
          const { visibility = 'private', allow_derivatives = true } = input
          recordProject(tx, context, caller, id, 'project.created', { after: { visibility, allow_derivatives } })
          const row = await store.insert(tx, {
            id,
            owner_id: caller.userId,
            name: input.name,
            description: input.description ?? '',
            visibility,
            allow_derivatives,
          })
          return toProject(row)
        },
        { grantsOnly: true },
      ),

    /** The permissions cost no query: the guard has loaded the same facts. */
    get: async (context: RequestContext, caller: Caller, id: string): Promise<ProjectWithPermissions> => {
      const project = toProject(requireFound(await store.find(context.deadline, id)))
      const questions = actions.map((action) => ({ userId: caller.userId, action, resource: refOf(id) }))
      const decisions = await access.decideMany(questions, context.deadline)
      return { ...project, permissions: actions.filter((_, index) => decisions[index]?.allowed) }
    },

    list: async (context: RequestContext, caller: Caller, filter: ProjectFilter) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, filter), filter.limit)
      return { items: items.map(toProject), next_cursor }
    },

    /** Visibility and derivatives decide the access of others, so they need `admin`. */
    update: (context: RequestContext, caller: Caller, id: string, input: ProjectChanges): Promise<Project> => {
      const changesAccess = input.visibility !== undefined || input.allow_derivatives !== undefined
      return changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockAndRequire(tx, context, caller, changesAccess ? 'admin' : 'write', id)
        if (context.onlyNarrowing) requireNarrowing(context, isNarrower(input, await findVisibility(tx, id)))
        recordProject(tx, context, caller, id, 'project.changed', {
          after: {
            changed: Object.keys(input),
            visibility: input.visibility,
            allow_derivatives: input.allow_derivatives,
          },
        })
        return toProject(await store.update(tx, id, input))
      })
    },

    remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await lockAndRequire(tx, context, caller, 'delete', id)
        recordProject(tx, context, caller, id, 'project.deleted')
        await store.lockForUpdate(tx, id)
        await store.remove(tx, id)
      }),

    /** Only the owner can transfer a project, and only to a user who may read it through a team. `admin` is not enough. */
    transfer: async (
      context: RequestContext,
      caller: Caller,
      { id, owner_id: newOwnerId }: Transfer & { readonly id: string },
      address: string,
    ): Promise<Project> => {
      const transferred = await changes.commitAndInvalidate(context.deadline, async (tx) => {
        await store.lockAccountForKeyShare(tx, newOwnerId)
        const ownerId = await lockAndRequire(tx, context, caller, 'admin', id)
        if (ownerId !== caller.userId) throw new Fault('access.denied')
        if (!(await store.canReadThroughTeam(tx, id, newOwnerId))) throw new Fault('project.new_owner_unfit')
        await quotas.require(tx, newOwnerId, { projects: 1 }, () => new Fault('project.new_owner_full'))
        recordProject(tx, context, caller, id, 'project.transferred', {
          userId: newOwnerId,
          before: { owner_id: ownerId },
          after: { owner_id: newOwnerId },
        })
        return toProject(await store.update(tx, id, { owner_id: newOwnerId }))
      })
      if (newOwnerId !== caller.userId)
        record(context, 'project.transferred', { address, by: caller.userId, project_id: id, user_id: newOwnerId })
      return transferred
    },

    ...createGrants(store, changes, lockAndRequire),

    stats: async (context: RequestContext, id: string): Promise<Stats> =>
      toStats(requireFound(await store.stats(context.deadline, id))),
  }
}

export type Projects = ReturnType<typeof createProjects>
