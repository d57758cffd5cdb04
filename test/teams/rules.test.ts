import { describe, expect, test } from 'bun:test'
import { type TeamRole, teamRoles } from '../../src/access/policy/matrix.ts'
import { mayInTeam, outranks, type TeamRight } from '../../src/teams/rules.ts'

/** Who may do what in a team, cell by cell: owner, admin, editor, contributor, viewer. */
const rights: Record<TeamRight, [boolean, boolean, boolean, boolean, boolean]> = {
  read: [true, true, true, true, true],
  leave: [true, true, true, true, true],
  update: [true, true, false, false, false],
  manage_members: [true, true, false, false, false],
  invite: [true, true, false, false, false],
  remove: [true, false, false, false, false],
  transfer: [true, false, false, false, false],
}

/** Over whom a role rules, cell by cell. */
const below: Record<TeamRole, TeamRole[]> = {
  owner: ['admin', 'editor', 'contributor', 'viewer'],
  admin: ['editor', 'contributor', 'viewer'],
  editor: ['contributor', 'viewer'],
  contributor: ['viewer'],
  viewer: [],
}

describe('what a member may do in its team', () => {
  for (const [right, expected] of Object.entries(rights) as [TeamRight, boolean[]][]) {
    test(right, () => expect(teamRoles.map((role) => mayInTeam(role, right))).toEqual(expected))
  }
})

describe('whom a member may give a role, change or remove', () => {
  for (const role of teamRoles) {
    test(`${role}: those below it`, () => {
      expect(teamRoles.filter((other) => outranks(role, other))).toEqual(below[role])
    })
  }

  test('of several, all have to be below', () => {
    expect(outranks('admin', 'editor', 'viewer')).toBe(true)
    expect(outranks('admin', 'viewer', 'admin')).toBe(false)
    expect(outranks('admin', 'owner', 'viewer')).toBe(false)
  })
})
