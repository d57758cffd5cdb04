import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import type { TransactionSql } from '../../src/platform/postgres.ts'
import type { Answer, Person } from '../harness.ts'
import { outcomeOf, startTeamFixture, type TeamFixture, type TeamPeople } from '../teams/fixture.ts'

const path = '/api/v1/teams'
const roleTooLow = '403 team.role_too_low'
const notFound = '404 team.not_found'
const memberNotFound = '404 team.member_not_found'
const invitationGone = '410 team.invitation_gone'

let fixture: TeamFixture
let people: TeamPeople
/** Number of started transactions: one for each change, two for closing an account, and one for each retry. */
let transactions = 0

beforeAll(async () => {
  fixture = await startTeamFixture({
    onStatement: (text) => {
      if (text.startsWith('begin')) transactions += 1
    },
  })
  people = await fixture.people()
})
afterAll(() => fixture.close())

const as = ({ token }: Person) => ({ token })
const transfer = (by: Person, id: string, to: Person) =>
  fixture.client.post(`${path}/${id}/transfer`, { user_id: to.id }, as(by))
const remove = (by: Person, id: string, member: Person) =>
  fixture.client.delete(`${path}/${id}/members/${member.id}`, as(by))
const setRole = (by: Person, id: string, member: Person, role: TeamRole) =>
  fixture.client.patch(`${path}/${id}/members/${member.id}`, { role }, as(by))
const leave = (caller: Person, id: string) => fixture.client.post(`${path}/${id}/leave`, undefined, as(caller))
const removeTeam = (by: Person, id: string) => fixture.client.delete(`${path}/${id}`, as(by))

const count = (answers: readonly Answer[]) => {
  const counts: Record<string, number> = {}
  for (const answer of answers) counts[outcomeOf(answer)] = (counts[outcomeOf(answer)] ?? 0) + 1
  return counts
}

describe('concurrent acceptances', () => {
  test('of one invitation, 50 of them, add one member, and one answer is 200', async () => {
    for (let round = 0; round < 5; round += 1) {
      const guest = await fixture.person()
      const id = await fixture.createTeamOf(people)
      const { secret } = await fixture.invite(people.owner, id, guest.email)
      const answers = await Promise.all(Array.from({ length: 50 }, () => fixture.accept(guest, secret)))
      expect(count(answers)).toEqual({ '200': 1, [invitationGone]: 49 })
      expect((await fixture.membersByRole(id)).viewer.filter((userId) => userId === guest.id)).toHaveLength(1)
    }
  })

  test('of 12 invitations to a team with room for 4 add exactly 4 members', async () => {
    const guests = await Promise.all(Array.from({ length: 12 }, () => fixture.person()))
    for (let round = 0; round < 5; round += 1) {
      const id = await fixture.createTeam(people.owner, [], { max_members: 5 })
      const secrets: string[] = []
      for (const { email } of guests) secrets.push((await fixture.invite(people.owner, id, email)).secret)
      const answers = await Promise.all(guests.map((guest, index) => fixture.accept(guest, secrets[index] as string)))
      expect(count(answers)).toEqual({ '200': 4, '409 team.full': 8 })
      expect((await fixture.membersByRole(id)).viewer).toHaveLength(4)
    }
  })

  test('while max_members is lowered never exceed it', async () => {
    const guests = await Promise.all(Array.from({ length: 6 }, () => fixture.person()))
    for (let round = 0; round < 8; round += 1) {
      const id = await fixture.createTeam(people.owner, [], { max_members: 7 })
      const secrets: string[] = []
      for (const { email } of guests) secrets.push((await fixture.invite(people.owner, id, email)).secret)
      const [bounded, ...accepted] = await Promise.all([
        fixture.client.patch(`${path}/${id}`, { max_members: 3 }, as(people.owner)),
        ...guests.map((guest, index) => fixture.accept(guest, secrets[index] as string)),
      ])
      expect(['200', '409 team.max_members_too_low']).toContain(outcomeOf(bounded))
      const { viewer } = await fixture.membersByRole(id)
      expect(viewer).toHaveLength(accepted.filter(({ status }) => status === 200).length)
      expect(viewer.length + 1).toBeLessThanOrEqual(bounded.status === 200 ? 3 : 7)
    }
  })

  test('and a cancellation, refusal or replacement of the invitation: exactly one succeeds', async () => {
    const guest = await fixture.person()
    for (let round = 0; round < 8; round += 1) {
      for (const kind of ['cancel', 'decline', 'replace'] as const) {
        const id = await fixture.createTeamOf(people)
        const { id: invitationId, secret } = await fixture.invite(people.owner, id, guest.email)
        const rival = {
          cancel: () => fixture.client.delete(`${path}/${id}/invitations/${invitationId}`, as(people.admin)),
          decline: () => fixture.client.post(`${path}/invitations/decline`, { secret }, as(guest)),
          replace: () =>
            fixture.client.post(`${path}/${id}/invitations`, { email: guest.email, role: 'editor' }, as(people.admin)),
        }[kind]
        const [accepted, other] = await Promise.all([fixture.accept(guest, secret), rival()])
        const lost = {
          cancel: '404 team.invitation_not_found',
          decline: invitationGone,
          replace: '409 team.already_member',
        }[kind]
        const won = kind === 'replace' ? '201' : '204'
        expect([
          ['200', lost],
          [invitationGone, won],
        ]).toContainEqual([outcomeOf(accepted), outcomeOf(other)])
        expect((await fixture.membersByRole(id)).viewer.includes(guest.id)).toBe(accepted.status === 200)
      }
    }
  })
})

describe('a team has exactly one owner', () => {
  const expectOneOwner = async (id: string) => {
    const { owner } = await fixture.membersByRole(id)
    expect(owner).toHaveLength(1)
    const { body } = await fixture.client.get(`${path}/${id}`, as(people.owner))
    if (body.owner_id !== undefined) expect(body.owner_id).toBe(owner[0])
    return owner[0] as string
  }
  /** Runs two concurrent calls in 20 rounds, and expects one of the given pairs of outcomes in each. */
  const race = async (
    calls: (id: string) => [Promise<Answer>, Promise<Answer>],
    outcomes: readonly [string, string][],
    check: (id: string, answers: [string, string]) => Promise<unknown>,
  ) => {
    for (let round = 0; round < 20; round += 1) {
      const id = await fixture.createTeamOf(people)
      const [one, other] = await Promise.all(calls(id))
      const answers: [string, string] = [outcomeOf(one), outcomeOf(other)]
      expect(outcomes).toContainEqual(answers)
      await check(id, answers)
    }
  }

  test('after two concurrent transfers, of which one succeeds', () =>
    race(
      (id) => [transfer(people.owner, id, people.admin), transfer(people.owner, id, people.viewer)],
      [
        ['200', roleTooLow],
        [roleTooLow, '200'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? people.admin : people.viewer).id),
    ))

  test('after a transfer and the concurrent removal of the new owner', () =>
    race(
      (id) => [transfer(people.owner, id, people.viewer), remove(people.owner, id, people.viewer)],
      [
        ['200', roleTooLow],
        [memberNotFound, '204'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? people.viewer : people.owner).id),
    ))

  test('after a transfer while the new owner leaves', () =>
    race(
      (id) => [transfer(people.owner, id, people.viewer), leave(people.viewer, id)],
      [
        ['200', '409 team.owner_cannot_leave'],
        [memberNotFound, '204'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? people.viewer : people.owner).id),
    ))

  test('after a transfer and a concurrent role change of the new owner', () =>
    race(
      (id) => [transfer(people.owner, id, people.viewer), setRole(people.admin, id, people.viewer, 'editor')],
      [
        ['200', roleTooLow],
        ['200', '200'],
      ],
      async (id) => expect(await expectOneOwner(id)).toBe(people.viewer.id),
    ))

  test('after a transfer and a concurrent deletion, unless the deletion succeeds', async () => {
    for (let round = 0; round < 20; round += 1) {
      const id = await fixture.createTeamOf(people)
      await fixture.shareProject(people.stranger, id)
      const [transferred, removed] = await Promise.all([
        transfer(people.owner, id, people.viewer),
        removeTeam(people.owner, id),
      ])
      expect([
        ['200', roleTooLow],
        [notFound, '204'],
      ]).toContainEqual([outcomeOf(transferred), outcomeOf(removed)])
      if (transferred.status === 200) expect(await expectOneOwner(id)).toBe(people.viewer.id)
      else expect(await fixture.storedTeam(id)).toMatchObject({ teams: null, members: null })
    }
  })

  test('after a role change and a concurrent removal of one member', () =>
    race(
      (id) => [setRole(people.owner, id, people.viewer, 'editor'), remove(people.admin, id, people.viewer)],
      [
        ['200', '204'],
        [memberNotFound, '204'],
      ],
      async (id) => {
        const { editor, viewer } = await fixture.membersByRole(id)
        expect([...editor, ...viewer]).not.toContain(people.viewer.id)
        await expectOneOwner(id)
      },
    ))

  test('after an admin is demoted while it removes a member', () =>
    race(
      (id) => [setRole(people.owner, id, people.admin, 'viewer'), remove(people.admin, id, people.other_viewer)],
      [
        ['200', '204'],
        ['200', roleTooLow],
      ],
      async (id, [, removed]) => {
        const { viewer } = await fixture.membersByRole(id)
        expect(viewer.includes(people.other_viewer.id)).toBe(removed === roleTooLow)
      },
    ))
})

test('an owner who transfers a team and closes the account concurrently has left it, or the closing is refused', async () => {
  const outcomes = new Set<string>()
  for (let round = 0; round < 20; round += 1) {
    const person = await fixture.person()
    const id = await fixture.createTeam(person, [[people.viewer, 'viewer']])
    const transferring = transfer(person, id, people.viewer)
    // The later the closing, the more likely it succeeds.
    await Bun.sleep(round / 2)
    const [transferred, closed] = await Promise.all([
      transferring,
      fixture.client.delete('/api/v1/auth/me', as(person)),
    ])
    expect(outcomeOf(transferred)).toBe('200')
    outcomes.add(outcomeOf(closed))
    const { owner, admin } = await fixture.membersByRole(id)
    const left = outcomeOf(closed) === '204'
    expect({ owner, admin }).toEqual({ owner: [people.viewer.id], admin: left ? [] : [person.id] })
  }
  expect([...outcomes].filter((outcome) => outcome !== '204' && outcome !== '409 identity.owns_teams')).toEqual([])
})

describe('a change is decided by the roles at the time of the change:', () => {
  const setRoleDirectly = (member: keyof TeamPeople, role: TeamRole) => (tx: TransactionSql, id: string) =>
    tx`update team_members set role = ${role} where team_id = ${id} and user_id = ${people[member].id}`
  const removeDirectly = (member: keyof TeamPeople) => (tx: TransactionSql, id: string) =>
    tx`delete from team_members where team_id = ${id} and user_id = ${people[member].id}`
  const transferTo = (member: keyof TeamPeople) => async (tx: TransactionSql, id: string) => {
    await setRoleDirectly('owner', 'admin')(tx, id)
    await setRoleDirectly(member, 'owner')(tx, id)
  }
  const deleteTeam = async (tx: TransactionSql, id: string) => {
    await tx`delete from teams where id = ${id}`
  }
  type Change = (tx: TransactionSql, id: string) => PromiseLike<unknown>
  type Act = (id: string, invitation: { id: string; secret: string }) => Promise<Answer>

  const byAdmin: Record<string, Act> = {
    rename: (id) => fixture.client.patch(`${path}/${id}`, { name: 'N' }, as(people.admin)),
    'role change': (id) => setRole(people.admin, id, people.viewer, 'editor'),
    removal: (id) => remove(people.admin, id, people.viewer),
    invitation: (id) =>
      fixture.client.post(`${path}/${id}/invitations`, { email: 'race@example.com', role: 'viewer' }, as(people.admin)),
    cancellation: (id, invitation) =>
      fixture.client.delete(`${path}/${id}/invitations/${invitation.id}`, as(people.admin)),
  }
  const cases: [name: string, act: Act, change: Change, expected: string][] = [
    ...Object.entries(byAdmin).flatMap(([name, act]): typeof cases => [
      [`${name} by an admin who is being demoted to editor`, act, setRoleDirectly('admin', 'editor'), roleTooLow],
      [`${name} by an admin who is being removed`, act, removeDirectly('admin'), notFound],
      [`${name} by an admin of a team that is being deleted`, act, deleteTeam, notFound],
    ]),
    [
      'removal of a member who is being made an admin',
      (id) => remove(people.admin, id, people.viewer),
      setRoleDirectly('viewer', 'admin'),
      roleTooLow,
    ],
    [
      'removal of a member who is leaving',
      (id) => remove(people.admin, id, people.viewer),
      removeDirectly('viewer'),
      memberNotFound,
    ],
    [
      'role change of a member who is being made an admin',
      (id) => setRole(people.admin, id, people.viewer, 'editor'),
      setRoleDirectly('viewer', 'admin'),
      roleTooLow,
    ],
    [
      'role change of a member who is leaving',
      (id) => setRole(people.admin, id, people.viewer, 'editor'),
      removeDirectly('viewer'),
      memberNotFound,
    ],
    [
      'transfer by an owner who is transferring the team',
      (id) => transfer(people.owner, id, people.viewer),
      transferTo('admin'),
      roleTooLow,
    ],
    [
      'transfer to a member who is leaving',
      (id) => transfer(people.owner, id, people.viewer),
      removeDirectly('viewer'),
      memberNotFound,
    ],
    [
      'deletion by an owner who is transferring the team',
      (id) => removeTeam(people.owner, id),
      transferTo('admin'),
      roleTooLow,
    ],
    [
      'leaving of a member who is being made the owner',
      (id) => leave(people.viewer, id),
      transferTo('viewer'),
      '409 team.owner_cannot_leave',
    ],
    ['leaving of a member who is being removed', (id) => leave(people.viewer, id), removeDirectly('viewer'), notFound],
    [
      'acceptance in a team that is being deleted',
      (_, { secret }) => fixture.accept(people.stranger, secret),
      deleteTeam,
      '404 team.invitation_not_found',
    ],
    [
      'acceptance of an invitation that is being cancelled',
      (_, { secret }) => fixture.accept(people.stranger, secret),
      (tx, id) => tx`update team_invitations set status = 'cancelled', decided_at = now() where team_id = ${id}`,
      invitationGone,
    ],
    [
      'acceptance in a team whose max_members is being lowered',
      (_, { secret }) => fixture.accept(people.stranger, secret),
      (tx, id) => tx`update teams set max_members = 8 where id = ${id}`,
      '409 team.full',
    ],
  ]

  for (const [name, act, change, expected] of cases) {
    test(name, async () => {
      const id = await fixture.createTeamOf(people)
      const invitation = await fixture.invite(people.owner, id, people.stranger.email)
      const answer = await fixture.changeWhileWaiting(
        id,
        () => act(id, invitation),
        async (tx) => change(tx, id),
      )
      expect(outcomeOf(answer)).toBe(expected)
    })
  }
})

describe('concurrent changes do not deadlock and are not retried:', () => {
  const patchProject = (by: Person, project: string, visibility: string) =>
    fixture.client.patch(`/api/v1/projects/${project}`, { visibility }, as(by))
  const patchGrant = (by: Person, project: string, id: string) =>
    fixture.client.patch(`/api/v1/projects/${project}/teams/${id}`, { access_level: 'read' }, as(by))

  test('the deletion of a team and changes of the projects granted to it', async () => {
    for (let round = 0; round < 10; round += 1) {
      const id = await fixture.createTeamOf(people)
      const projects = [
        await fixture.shareProject(people.stranger, id),
        await fixture.shareProject(people.stranger, id),
      ] as const
      transactions = 0
      const answers = await Promise.all([
        patchProject(people.stranger, projects[0], 'public'),
        patchProject(people.stranger, projects[1], 'private'),
        removeTeam(people.owner, id),
        patchGrant(people.stranger, projects[1], id),
        patchGrant(people.stranger, projects[0], id),
      ])
      for (const answer of answers) expect(['200', '204', '404 project.grant_not_found']).toContain(outcomeOf(answer))
      expect(transactions).toBe(answers.length)
    }
  })

  test('the deletion of a team and the closing of an account that is a member of it and of others', async () => {
    for (let round = 0; round < 10; round += 1) {
      const guest = await fixture.person()
      const ids = [
        await fixture.createTeam(people.owner, [[guest, 'viewer']]),
        await fixture.createTeam(people.owner, [[guest, 'viewer']]),
      ]
      const project = await fixture.shareProject(people.owner, ids[0] as string)
      await fixture.grant(project, ids[1] as string, 'read', people.owner)
      transactions = 0
      const answers = await Promise.all([
        removeTeam(people.owner, ids[1] as string),
        fixture.client.delete('/api/v1/auth/me', as(guest)),
      ])
      expect(answers.map(outcomeOf)).toEqual(['204', '204'])
      // Closing takes three: cancelled generations, the account, and its content.
      expect(transactions).toBe(answers.length + 2)
    }
  })

  test('a caller who may not delete a team does not wait for its projects', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id)
    await fixture.services.database.admin.begin(async (tx) => {
      await tx`select from projects where id = ${project} for no key update`
      expect(outcomeOf(await removeTeam(people.admin, id))).toBe(roleTooLow)
    })
  })

  test('the closing of an account and changes in all its teams', async () => {
    for (let round = 0; round < 10; round += 1) {
      const guest = await fixture.person()
      const ids: string[] = []
      const projects: string[] = []
      for (let index = 0; index < 4; index += 1) {
        ids.unshift(await fixture.createTeam(people.owner, [[guest, 'viewer']]))
        projects.push(await fixture.shareProject(people.owner, ids[0] as string))
      }
      // One project is granted to several teams, so that a change of it locks them all.
      for (const id of ids.slice(0, 3)) await fixture.grant(projects[0] as string, id, 'read', people.owner)
      const invited = await fixture.createTeam(people.owner)
      const { secret } = await fixture.invite(people.owner, invited, guest.email)
      transactions = 0
      const answers = await Promise.all([
        fixture.client.delete('/api/v1/auth/me', as(guest)),
        ...ids.map((id) => setRole(people.owner, id, guest, 'editor')),
        ...projects.map((project) => patchProject(people.owner, project, 'public')),
        patchProject(people.owner, projects[0] as string, 'private'),
      ])
      // Closing takes three: cancelled generations, the account, and its content.
      expect(transactions).toBe(answers.length + 2)
      expect(outcomeOf(await fixture.accept(guest, secret))).toBe('401 identity.not_signed_in')
    }
  })
})

test('random concurrent changes by six users leave one owner, at most max_members members, and correct access', async () => {
  const { database } = fixture.services
  const actors = [people.owner, people.admin, people.editor, people.viewer, people.stranger, await fixture.person()]
  const pick = <T>(from: readonly T[]) => from[Math.floor(Math.random() * from.length)] as T
  const roles = ['admin', 'editor', 'contributor', 'viewer'] as const
  const outcomes: Record<string, number> = {}
  for (let round = 0; round < 4; round += 1) {
    const members = actors.slice(1, 4).map((person, index) => [person, roles[index] as TeamRole] as const)
    const ids = [
      await fixture.createTeam(people.owner, members, { max_members: 5 }),
      await fixture.createTeam(people.owner, members, { max_members: 5 }),
    ]
    const projects = [
      [await fixture.shareProject(people.owner, ids[0] as string), people.owner],
      [await fixture.shareProject(people.admin, ids[1] as string), people.admin],
    ] as const
    const secrets: string[] = []
    const operations: (() => Promise<Answer | undefined>)[] = [
      () => transfer(pick(actors), pick(ids), pick(actors)),
      () => transfer(pick(actors), pick(ids), pick(actors)),
      () => remove(pick(actors), pick(ids), pick(actors)),
      () => setRole(pick(actors), pick(ids), pick(actors), pick(roles)),
      () => leave(pick(actors), pick(ids)),
      () =>
        fixture.client.patch(
          `${path}/${pick(ids)}`,
          { max_members: 3 + Math.floor(Math.random() * 4) },
          as(pick(actors)),
        ),
      async () => {
        const { email } = pick(actors)
        const answer = await fixture.client.post(
          `${path}/${pick(ids)}/invitations`,
          { email, role: pick(roles) },
          as(pick(actors)),
        )
        if (answer.status === 201) secrets.push(answer.body.secret)
        return answer
      },
      async () => (secrets.length > 0 ? fixture.accept(pick(actors), pick(secrets)) : undefined),
      async () => (secrets.length > 0 ? fixture.accept(pick(actors), pick(secrets)) : undefined),
      () => {
        const [project, owner] = pick(projects)
        const grant = { team_id: pick(ids), access_level: 'write' }
        return fixture.client.post(`/api/v1/projects/${project}/teams`, grant, as(owner))
      },
      () => {
        const [project, owner] = pick(projects)
        return fixture.client.delete(`/api/v1/projects/${project}/teams/${pick(ids)}`, as(owner))
      },
      () => {
        const [project, owner] = pick(projects)
        const visibility = pick(['private', 'team-only', 'public'])
        return fixture.client.patch(`/api/v1/projects/${project}`, { visibility }, as(owner))
      },
    ]
    const workers = Array.from({ length: 8 }, async () => {
      for (let index = 0; index < 40; index += 1) {
        const answer = await pick(operations)()
        if (answer !== undefined) outcomes[outcomeOf(answer)] = (outcomes[outcomeOf(answer)] ?? 0) + 1
      }
    })
    const deletion = (async () => {
      await Bun.sleep(150)
      // Deletes the second team while the others run. Only its current owner succeeds.
      for (const person of actors) {
        const answer = await removeTeam(person, ids[1] as string)
        outcomes[outcomeOf(answer)] = (outcomes[outcomeOf(answer)] ?? 0) + 1
      }
    })()
    await Promise.all([...workers, deletion])
    expect(await findAccessDifferences(database.admin)).toEqual([])
    for (const id of ids) {
      const [team] = await database.admin<{ max_members: number }[]>`select max_members from teams where id = ${id}`
      const by = await fixture.membersByRole(id)
      if (team === undefined) {
        expect(Object.values(by).flat()).toEqual([])
        continue
      }
      expect(by.owner).toHaveLength(1)
      expect(Object.values(by).flat().length).toBeLessThanOrEqual(team.max_members)
    }
  }
  expect(Object.keys(outcomes).filter((answer) => answer.startsWith('5'))).toEqual([])
  // Every kind of outcome occurred, so the calls were not all refused.
  for (const answer of ['200', '201', '204', roleTooLow, notFound]) expect(outcomes[answer] ?? 0).toBeGreaterThan(0)
})
