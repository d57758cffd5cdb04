import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import { hold, until } from '../faults/support.ts'
import { api, type Person, startApp, type TestApp } from '../harness.ts'
import { outcomeOf, startTeamFixture, type TeamFixture } from '../teams/fixture.ts'

let fixture: TeamFixture
let other: TestApp
let operator: Person

const as = ({ token }: Person) => ({ token })
const people = (count: number) => Promise.all(Array.from({ length: count }, () => fixture.person()))
const closeAccount = (person: Person) => fixture.client.delete('/api/v1/auth/me', as(person))
const suspend = (person: Person) =>
  fixture.client.patch(`/api/v1/users/${person.id}`, { status: 'suspended' }, as(operator))

/** Members in the order in which they joined. */
const teamOf = async (owner: Person, members: readonly (readonly [Person, TeamRole])[]) => {
  const id = await fixture.createTeam(owner, members)
  const sql = fixture.services.database.admin
  for (const [index, [{ id: userId }]] of members.entries()) {
    await sql`
      update team_members set joined_at = '2026-01-01'::timestamptz + ${index}::int * interval '1 day'
       where team_id = ${id} and user_id = ${userId}`
  }
  return id
}

const rolesIn = async (id: string): Promise<Record<string, string>> => {
  const rows = await fixture.services.database.admin<{ user_id: string; role: string }[]>`
    select user_id, role from team_members where team_id = ${id}`
  return Object.fromEntries(rows.map(({ user_id, role }) => [user_id, role]))
}

const existsTeam = async (id: string) =>
  (await fixture.services.database.admin`select from teams where id = ${id}`).count === 1

beforeAll(async () => {
  fixture = await startTeamFixture()
  other = await startApp({ connection: fixture.connection })
  operator = await fixture.person()
  await fixture.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
  await fixture.caughtUp()
})
afterAll(async () => {
  expect(await findAccessDifferences(fixture.services.database.admin)).toEqual([])
  await other.close()
  await fixture.close()
})

describe('an owner who closes the account', () => {
  test('gets 409 naming the teams with other active members, and nothing has changed', async () => {
    const [owner, member] = (await people(2)) as [Person, Person]
    const first = await fixture.createTeam(owner, [[member, 'viewer']], { name: 'The first' })
    const second = await fixture.createTeam(owner, [[member, 'admin']], { name: 'The second' })
    await fixture.createTeam(owner)
    const generation = await fixture.client.post(
      '/api/v1/generations',
      { model: 'local/procedural', prompt: 'a lighthouse' },
      as(owner),
    )
    const refused = await closeAccount(owner)
    expect(outcomeOf(refused)).toBe('409 identity.owns_teams')
    expect(refused.body.teams).toEqual(
      [
        { id: first, name: 'The first' },
        { id: second, name: 'The second' },
      ].toSorted((a, b) => (a.id < b.id ? -1 : 1)),
    )
    const { body } = await fixture.client.get(`/api/v1/generations/${generation.body.id}`, as(owner))
    expect(body.status).toBe('queued')

    await fixture.client.post(`/api/v1/teams/${first}/transfer`, { user_id: member.id }, as(owner))
    expect((await closeAccount(owner)).body.teams).toEqual([{ id: second, name: 'The second' }])
    await fixture.client.delete(`/api/v1/teams/${second}`, as(owner))
    expect(outcomeOf(await closeAccount(owner))).toBe('204')
    expect(await rolesIn(first)).toEqual({ [member.id]: 'owner' })
  })

  test('takes along the teams without another member, with their grants, and passes others to a suspended member', async () => {
    const [owner, friend, suspended] = (await people(3)) as [Person, Person, Person]
    const alone = await fixture.createTeam(owner)
    const project = await fixture.shareProject(friend, alone)
    const kept = await fixture.createTeam(owner, [[suspended, 'viewer']])
    await suspend(suspended)
    expect(outcomeOf(await closeAccount(owner))).toBe('204')
    expect(await existsTeam(alone)).toBe(false)
    expect(await rolesIn(kept)).toEqual({ [suspended.id]: 'owner' })
    const { body } = await fixture.client.get(`/api/v1/projects/${project}/teams`, as(friend))
    expect(body.items).toEqual([])
  })

  test('is refused when a member joins while the closing waits', async () => {
    const [owner, guest] = (await people(2)) as [Person, Person]
    const id = await fixture.createTeam(owner)
    const { secret } = await fixture.invite(owner, id, guest.email, 'admin')
    const held = await hold(fixture.connection, (tx) => tx`select from teams where id = ${id} for update`)
    const closing = closeAccount(owner)
    await held.waiting(1)
    await held.release(async (tx) => {
      await tx`insert into team_members (team_id, user_id, role) values (${id}, ${guest.id}, 'admin')`
    })
    expect(outcomeOf(await closing)).toBe('409 identity.owns_teams')
    expect(secret).toBeString()
  })
})

describe('a team whose owner is suspended by an operator', () => {
  test('passes to the oldest admin, on every instance when the call returns', async () => {
    const [owner, editor, late, early] = (await people(4)) as [Person, Person, Person, Person]
    const id = await teamOf(owner, [
      [editor, 'editor'],
      [early, 'admin'],
      [late, 'admin'],
    ])
    const elsewhere = api(other.baseUrl)
    const deleteTeam = (person: Person) => elsewhere.delete(`/api/v1/teams/${id}`, as(person))
    expect(outcomeOf(await deleteTeam(early))).toBe('403 team.role_too_low')
    expect(outcomeOf(await suspend(owner))).toBe('200')
    expect(await rolesIn(id)).toEqual({
      [owner.id]: 'admin',
      [editor.id]: 'editor',
      [early.id]: 'owner',
      [late.id]: 'admin',
    })
    expect(outcomeOf(await elsewhere.get(`/api/v1/teams/${id}`, as(owner)))).toBe('401 identity.not_signed_in')
    expect(outcomeOf(await deleteTeam(early))).toBe('204')
  })

  test('gives the new owner its access at once, and passes by role where there is no admin', async () => {
    const [owner, viewer, contributor, artist] = (await people(4)) as [Person, Person, Person, Person]
    const id = await teamOf(owner, [
      [viewer, 'viewer'],
      [contributor, 'contributor'],
    ])
    const project = await fixture.shareProject(artist, id)
    expect(await fixture.isAllowed(contributor, 'admin', project)).toBe(false)
    expect(outcomeOf(await suspend(owner))).toBe('200')
    expect(await fixture.isAllowed(contributor, 'admin', project)).toBe(true)
    expect(await fixture.isAllowed(viewer, 'write', project)).toBe(false)
  })

  test('stays with its owner while no other member is active', async () => {
    const [owner, member] = (await people(2)) as [Person, Person]
    const alone = await fixture.createTeam(owner)
    const shared = await fixture.createTeam(owner, [[member, 'admin']])
    await suspend(member)
    await suspend(owner)
    expect(await rolesIn(alone)).toEqual({ [owner.id]: 'owner' })
    expect(await rolesIn(shared)).toEqual({ [owner.id]: 'owner', [member.id]: 'admin' })
    // Lifting the suspension changes no role.
    await fixture.client.patch(`/api/v1/users/${owner.id}`, { status: 'active' }, as(operator))
    expect(await rolesIn(shared)).toEqual({ [owner.id]: 'owner', [member.id]: 'admin' })
  })

  test('never ends up with a suspended owner when owner and successor are suspended at once', async () => {
    for (let round = 0; round < 8; round += 1) {
      const [one, two, third] = (await people(3)) as [Person, Person, Person]
      const ids = [
        await teamOf(one, [
          [two, 'admin'],
          [third, 'viewer'],
        ]),
        await teamOf(two, [
          [one, 'admin'],
          [third, 'viewer'],
        ]),
      ]
      const answers = await Promise.all([suspend(one), suspend(two)])
      expect(answers.map(outcomeOf)).toEqual(['200', '200'])
      for (const id of ids) expect((await rolesIn(id))[third.id]).toBe('owner')
    }
  })
})

describe('a team whose owner is changed by hand', () => {
  test('passes on when the account is suspended or deleted, and instances learn of it', async () => {
    const [first, second, member, artist] = (await people(4)) as [Person, Person, Person, Person]
    const ids = [
      await fixture.createTeam(first, [[member, 'viewer']]),
      await fixture.createTeam(second, [[member, 'viewer']]),
    ] as const
    const alone = await fixture.createTeam(second)
    const project = await fixture.shareProject(artist, ids[1])
    expect(await fixture.isAllowed(member, 'admin', project)).toBe(false)
    const sql = fixture.services.database.admin
    await sql`update users set status = 'suspended' where id = ${first.id}`
    await sql`update users set status = 'deleted', email = null, password_hash = null where id = ${second.id}`
    expect(await rolesIn(ids[0])).toEqual({ [first.id]: 'admin', [member.id]: 'owner' })
    expect(await rolesIn(ids[1])).toEqual({ [member.id]: 'owner' })
    expect(await existsTeam(alone)).toBe(false)
    await until(() => fixture.isAllowed(member, 'admin', project), 'the new owner has the access of an owner')
  })

  test('is not transferred to a suspended member', async () => {
    const [owner, member] = (await people(2)) as [Person, Person]
    const id = await fixture.createTeam(owner, [[member, 'admin']])
    await suspend(member)
    const answer = await fixture.client.post(`/api/v1/teams/${id}/transfer`, { user_id: member.id }, as(owner))
    expect(outcomeOf(answer)).toBe('409 team.new_owner_inactive')
  })
})
