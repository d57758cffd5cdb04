import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { decide } from '../../src/access/policy/decide.ts'
import { accessLevels, actions, type ResourceRef, teamRoles } from '../../src/access/policy/matrix.ts'
import { may, mayDerive, type World } from './reference-model.ts'
import { factsIn } from './world.ts'
import { anyAsker, anyProject, anyResource, anyTeam, anyWorld, resources } from './worlds.ts'

const anyAction = fc.constantFrom(...actions)

const allows = (world: World, userId: string, action: (typeof actions)[number], resource: ResourceRef): boolean =>
  decide(factsIn(world, userId, resource), action).allowed

describe('for any world', () => {
  test('the decision equals that of the reference model: 100,000 worlds', () => {
    let asked = 0
    let allowed = 0
    fc.assert(
      fc.property(anyWorld, anyAsker, anyResource, anyAction, (world, userId, resource, action) => {
        const expected = may(world, userId, action, resource)
        asked += 1
        if (expected) allowed += 1
        return allows(world, userId, action, resource) === expected
      }),
      { numRuns: 100_000 },
    )
    // The property proves little unless a share of the answers is allow.
    expect(allowed / asked).toBeGreaterThan(0.1)
    expect(allowed / asked).toBeLessThan(0.6)
  }, 120_000)

  test('every decision and every derivation equals that of the reference model: 5,000 worlds', () => {
    fc.assert(
      fc.property(anyWorld, anyAsker, (world, userId) => {
        for (const resource of resources) {
          const facts = factsIn(world, userId, resource)
          for (const action of actions) {
            if (decide(facts, action).allowed !== may(world, userId, action, resource)) return false
          }
          if (resource.type !== 'generation') continue
          const derives = decide({ ...facts, deriving: true }, 'read').allowed
          if (derives !== mayDerive(world, userId, resource.id)) return false
        }
        return true
      }),
      { numRuns: 5_000 },
    )
  }, 60_000)

  test('suspending or deleting an account never turns a deny into an allow', () => {
    const anyEnd = fc.constantFrom('suspended', 'deleted' as const)
    fc.assert(
      fc.property(anyWorld, anyAsker, anyAsker, anyResource, anyEnd, (world, userId, victim, resource, status) => {
        const after = { ...world, users: world.users.map((user) => (user.id === victim ? { ...user, status } : user)) }
        for (const action of actions) {
          const allowed = allows(after, userId, action, resource)
          if (userId === victim && allowed) return false
          if (allowed && !allows(world, userId, action, resource)) return false
        }
        return true
      }),
      { numRuns: 20_000 },
    )
  }, 60_000)

  test('adding a grant, or raising one, never removes an allow', () => {
    const anyLevel = fc.nat(accessLevels.length - 1)
    fc.assert(
      fc.property(
        anyWorld,
        anyAsker,
        anyResource,
        anyProject,
        anyTeam,
        anyLevel,
        (world, userId, resource, ...added) => {
          const [project_id, team_id, level] = added
          const isIt = (grant: World['grants'][number]) => grant.project_id === project_id && grant.team_id === team_id
          const own = world.grants.find(isIt)
          const before = own === undefined ? 0 : accessLevels.indexOf(own.access_level)
          const access_level = accessLevels[Math.max(before, level)] as (typeof accessLevels)[number]
          const grants = [...world.grants.filter((grant) => !isIt(grant)), { project_id, team_id, access_level }]
          const after = { ...world, grants }
          return actions.every(
            (action) => !allows(world, userId, action, resource) || allows(after, userId, action, resource),
          )
        },
      ),
      { numRuns: 20_000 },
    )
  }, 60_000)

  test('joining a team, or rising in it, never removes an allow', () => {
    const anyRole = fc.nat(teamRoles.length - 1)
    fc.assert(
      fc.property(anyWorld, anyAsker, anyResource, anyTeam, anyRole, (world, userId, resource, team_id, place) => {
        const isIt = (member: World['members'][number]) => member.team_id === team_id && member.user_id === userId
        const own = world.members.find(isIt)
        const before = own === undefined ? teamRoles.length - 1 : teamRoles.indexOf(own.role)
        const role = teamRoles[Math.min(before, place)] as (typeof teamRoles)[number]
        const members = [...world.members.filter((member) => !isIt(member)), { team_id, user_id: userId, role }]
        return actions.every(
          (action) =>
            !allows(world, userId, action, resource) || allows({ ...world, members }, userId, action, resource),
        )
      }),
      { numRuns: 20_000 },
    )
  }, 60_000)

  test('a user who may do any action may read', () => {
    fc.assert(
      fc.property(anyWorld, anyAsker, anyResource, (world, userId, resource) =>
        actions.every((action) => !allows(world, userId, action, resource) || allows(world, userId, 'read', resource)),
      ),
      { numRuns: 20_000 },
    )
  }, 60_000)

  test('the role of a platform admin opens no content', () => {
    fc.assert(
      fc.property(anyWorld, anyAsker, anyResource, anyAction, (world, userId, resource, action) => {
        const as = (role: 'user' | 'admin') =>
          allows({ ...world, users: world.users.map((user) => ({ ...user, role })) }, userId, action, resource)
        return as('admin') === as('user')
      }),
      { numRuns: 20_000 },
    )
  }, 60_000)
})
