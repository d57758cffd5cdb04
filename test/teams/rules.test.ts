import { describe, expect, test } from 'bun:test'
import { type TeamRole, teamRoles } from '../../src/access/policy/matrix.ts'
import { mayInTeam, outranks, type TeamRight } from '../../src/teams/rules.ts'

/** Whether owner, admin, editor, contributor and viewer have each right. */
const rights: Record<TeamRight, [boolean, boolean, boolean, boolean, boolean]> = {
  read: [true, true, true, true, true],
  leave: [true, true, true, true, true],
  update: [true, true, false, false, false],
  manage_members: [true, true, false, false, false],
  invite: [true, true, false, false, false],
  manage_webhooks: [true, true, false, false, false],
  remove: [true, false, false, false, false],
  transfer: [true, false, false, false, false],
  require_second_factor: [true, false, false, false, false],
  read_audit: [true, false, false, false, false],
}

/** The roles that each role outranks. */
const below: Record<TeamRole, TeamRole[]> = {
  owner: ['admin', 'editor', 'contributor', 'viewer'],
  admin: ['editor', 'contributor', 'viewer'],
  editor: ['contributor', 'viewer'],
  contributor: ['viewer'],
  viewer: [],
}

describe('each role has the expected rights in its team', () => {
  for (const [right, expected] of Object.entries(rights) as [TeamRight, boolean[]][]) {
    test(right, () => expect(teamRoles.map((role) => mayInTeam(role, right))).toEqual(expected))
  }
})

describe('a role outranks', () => {
  for (const role of teamRoles) {
    test(`only the roles below it: ${role}`, () => {
      expect(teamRoles.filter((other) => outranks(role, other))).toEqual(below[role])
    })
  }

  test('several roles only if all of them are below it', () => {
    expect(outranks('admin', 'editor', 'viewer')).toBe(true)
    expect(outranks('admin', 'viewer', 'admin')).toBe(false)
    expect(outranks('admin', 'owner', 'viewer')).toBe(false)
  })
})
