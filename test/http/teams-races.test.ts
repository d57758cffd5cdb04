import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import type { TransactionSql } from '../../src/platform/postgres.ts'
import { hold, holdSessions } from '../faults/support.ts'
import type { Answer, Person } from '../harness.ts'
import { type Cast, openStage, type Stage, told } from '../teams/fixture.ts'

const path = '/api/v1/teams'
const low = '403 team.role_too_low'
const gone = '404 team.not_found'
const noMember = '404 team.member_not_found'
const closed = '404 team.invitation_not_found'

let stage: Stage
let cast: Cast
/** Transactions that were begun: one for each change, two to close an account, and one for each second try. */
let begun = 0

beforeAll(async () => {
  stage = await openStage({
    onStatement: (text) => {
      if (text.startsWith('begin')) begun += 1
    },
  })
  cast = await stage.cast()
})
afterAll(() => stage.close())

const as = ({ token }: Person) => ({ token })
const transfer = (by: Person, id: string, to: Person) =>
  stage.client.post(`${path}/${id}/transfer`, { user_id: to.id }, as(by))
const remove = (by: Person, id: string, whom: Person) => stage.client.delete(`${path}/${id}/members/${whom.id}`, as(by))
const setRole = (by: Person, id: string, whom: Person, role: TeamRole) =>
  stage.client.patch(`${path}/${id}/members/${whom.id}`, { role }, as(by))
const leave = (who: Person, id: string) => stage.client.post(`${path}/${id}/leave`, undefined, as(who))
const removeTeam = (by: Person, id: string) => stage.client.delete(`${path}/${id}`, as(by))

const count = (answers: readonly Answer[]) => {
  const counts: Record<string, number> = {}
  for (const answer of answers) counts[told(answer)] = (counts[told(answer)] ?? 0) + 1
  return counts
}

describe('accepts at once', () => {
  test('50 of one invitation make one member, and one answer says so', async () => {
    for (let round = 0; round < 5; round += 1) {
      const guest = await stage.person()
      const id = await stage.foundFor(cast)
      const { secret } = await stage.invite(cast.owner, id, guest.email)
      const answers = await Promise.all(Array.from({ length: 50 }, () => stage.accept(guest, secret)))
      expect(count(answers)).toEqual({ '200': 1, [closed]: 49 })
      expect((await stage.members(id)).viewer.filter((userId) => userId === guest.id)).toHaveLength(1)
    }
  })

  test('of many people fill a team to the last place and no further', async () => {
    const guests = await Promise.all(Array.from({ length: 12 }, () => stage.person()))
    for (let round = 0; round < 5; round += 1) {
      const id = await stage.found(cast.owner, [], { max_members: 5 })
      const secrets: string[] = []
      for (const { email } of guests) secrets.push((await stage.invite(cast.owner, id, email)).secret)
      const answers = await Promise.all(guests.map((guest, index) => stage.accept(guest, secrets[index] as string)))
      expect(count(answers)).toEqual({ '200': 4, '409 team.full': 8 })
      expect((await stage.members(id)).viewer).toHaveLength(4)
    }
  })

  test('while the bound is lowered: the team is never larger than it may be', async () => {
    const guests = await Promise.all(Array.from({ length: 6 }, () => stage.person()))
    for (let round = 0; round < 8; round += 1) {
      const id = await stage.found(cast.owner, [], { max_members: 7 })
      const secrets: string[] = []
      for (const { email } of guests) secrets.push((await stage.invite(cast.owner, id, email)).secret)
      const [bounded, ...accepted] = await Promise.all([
        stage.client.patch(`${path}/${id}`, { max_members: 3 }, as(cast.owner)),
        ...guests.map((guest, index) => stage.accept(guest, secrets[index] as string)),
      ])
      expect(['200', '409 team.max_members_too_low']).toContain(told(bounded))
      const { viewer } = await stage.members(id)
      expect(viewer).toHaveLength(accepted.filter(({ status }) => status === 200).length)
      expect(viewer.length + 1).toBeLessThanOrEqual(bounded.status === 200 ? 3 : 7)
    }
  })

  test('and cancelled, declined or replaced: one of them wins', async () => {
    const guest = await stage.person()
    for (let round = 0; round < 8; round += 1) {
      for (const kind of ['cancel', 'decline', 'replace'] as const) {
        const id = await stage.foundFor(cast)
        const { id: invitationId, secret } = await stage.invite(cast.owner, id, guest.email)
        const rival = {
          cancel: () => stage.client.delete(`${path}/${id}/invitations/${invitationId}`, as(cast.admin)),
          decline: () => stage.client.post(`${path}/invitations/decline`, { secret }, as(guest)),
          replace: () =>
            stage.client.post(`${path}/${id}/invitations`, { email: guest.email, role: 'editor' }, as(cast.admin)),
        }[kind]
        const [accepted, other] = await Promise.all([stage.accept(guest, secret), rival()])
        const lost = kind === 'replace' ? '409 team.already_member' : closed
        const won = kind === 'replace' ? '201' : '204'
        expect([
          ['200', lost],
          [closed, won],
        ]).toContainEqual([told(accepted), told(other)])
        expect((await stage.members(id)).viewer.includes(guest.id)).toBe(accepted.status === 200)
      }
    }
  })
})

describe('exactly one owner', () => {
  const expectOneOwner = async (id: string) => {
    const { owner } = await stage.members(id)
    expect(owner).toHaveLength(1)
    const { body } = await stage.client.get(`${path}/${id}`, as(cast.owner))
    if (body.owner_id !== undefined) expect(body.owner_id).toBe(owner[0])
    return owner[0] as string
  }
  /** Runs two calls at once, many times, and says which pairs of answers came. */
  const race = async (
    calls: (id: string) => [Promise<Answer>, Promise<Answer>],
    outcomes: readonly [string, string][],
    check: (id: string, answers: [string, string]) => Promise<unknown>,
  ) => {
    for (let round = 0; round < 20; round += 1) {
      const id = await stage.foundFor(cast)
      const [one, other] = await Promise.all(calls(id))
      const answers: [string, string] = [told(one), told(other)]
      expect(outcomes).toContainEqual(answers)
      await check(id, answers)
    }
  }

  test('after two transfers at once: one is done', () =>
    race(
      (id) => [transfer(cast.owner, id, cast.admin), transfer(cast.owner, id, cast.viewer)],
      [
        ['200', low],
        [low, '200'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? cast.admin : cast.viewer).id),
    ))

  test('after a transfer and the removal of the one it goes to', () =>
    race(
      (id) => [transfer(cast.owner, id, cast.viewer), remove(cast.owner, id, cast.viewer)],
      [
        ['200', low],
        [noMember, '204'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? cast.viewer : cast.owner).id),
    ))

  test('after a transfer and its new owner leaving', () =>
    race(
      (id) => [transfer(cast.owner, id, cast.viewer), leave(cast.viewer, id)],
      [
        ['200', '409 team.owner_cannot_leave'],
        [noMember, '204'],
      ],
      async (id, [first]) => expect(await expectOneOwner(id)).toBe((first === '200' ? cast.viewer : cast.owner).id),
    ))

  test('after a transfer and a role for the one it goes to', () =>
    race(
      (id) => [transfer(cast.owner, id, cast.viewer), setRole(cast.admin, id, cast.viewer, 'editor')],
      [
        ['200', low],
        ['200', '200'],
      ],
      async (id) => expect(await expectOneOwner(id)).toBe(cast.viewer.id),
    ))

  test('after a transfer and a deletion: or none, and no team', async () => {
    for (let round = 0; round < 20; round += 1) {
      const id = await stage.foundFor(cast)
      await stage.share(cast.stranger, id)
      const [handed, removed] = await Promise.all([transfer(cast.owner, id, cast.viewer), removeTeam(cast.owner, id)])
      expect([
        ['200', low],
        [gone, '204'],
      ]).toContainEqual([told(handed), told(removed)])
      if (handed.status === 200) expect(await expectOneOwner(id)).toBe(cast.viewer.id)
      else expect(await stage.stored(id)).toMatchObject({ teams: null, members: null })
    }
  })

  test('a role change and a removal of one member', () =>
    race(
      (id) => [setRole(cast.owner, id, cast.viewer, 'editor'), remove(cast.admin, id, cast.viewer)],
      [
        ['200', '204'],
        [noMember, '204'],
      ],
      async (id) => {
        const { editor, viewer } = await stage.members(id)
        expect([...editor, ...viewer]).not.toContain(cast.viewer.id)
        await expectOneOwner(id)
      },
    ))

  test('two admins who demote and remove the same people', () =>
    race(
      (id) => [setRole(cast.owner, id, cast.admin, 'viewer'), remove(cast.admin, id, cast.other_viewer)],
      [
        ['200', '204'],
        ['200', low],
      ],
      async (id, [, removed]) => {
        const { viewer } = await stage.members(id)
        expect(viewer.includes(cast.other_viewer.id)).toBe(removed === low)
      },
    ))
})

describe('who hands a team over and closes the account at once', () => {
  const close = (who: Person) => stage.client.delete('/api/v1/auth/me', as(who))
  const cases = [
    ['is out of it, when the transfer came first', 'transfer', ['200', '204']],
    [
      'is told so and hands over nothing, when the closing came first',
      'closing',
      ['401 identity.not_signed_in', '204'],
    ],
  ] as const
  for (const [name, first, expected] of cases) {
    test(name, async () => {
      const person = await stage.person()
      const id = await stage.found(person, [[cast.viewer, 'viewer']])
      const held =
        first === 'transfer'
          ? await hold(stage.connection, (tx) => tx`select from teams where id = ${id} for no key update`)
          : await holdSessions(stage.connection, person.id)
      const calls = [() => transfer(person, id, cast.viewer), () => close(person)]
      if (first === 'closing') calls.reverse()
      const sent: Promise<Answer>[] = []
      for (const call of calls) {
        sent.push(call())
        await held.waiting(sent.length)
      }
      await held.release()
      if (first === 'closing') sent.reverse()
      expect((await Promise.all(sent)).map(told)).toEqual([...expected])
      const { owner, admin, viewer } = await stage.members(id)
      const handedOver = { owner: [cast.viewer.id], admin: [], viewer: [] }
      const kept = { owner: [person.id], admin: [], viewer: [cast.viewer.id] }
      expect({ owner, admin, viewer }).toEqual(first === 'transfer' ? handedOver : kept)
    })
  }
})

describe('decided by the roles as they are when it is done', () => {
  const become = (whom: keyof Cast, role: TeamRole) => (tx: TransactionSql, id: string) =>
    tx`update team_members set role = ${role} where team_id = ${id} and user_id = ${cast[whom].id}`
  const vanish = (whom: keyof Cast) => (tx: TransactionSql, id: string) =>
    tx`delete from team_members where team_id = ${id} and user_id = ${cast[whom].id}`
  const handTo = (whom: keyof Cast) => async (tx: TransactionSql, id: string) => {
    await become('owner', 'admin')(tx, id)
    await become(whom, 'owner')(tx, id)
  }
  const disband = async (tx: TransactionSql, id: string) => {
    await tx`delete from teams where id = ${id}`
  }
  type Change = (tx: TransactionSql, id: string) => PromiseLike<unknown>
  type Act = (id: string, invitation: { id: string; secret: string }) => Promise<Answer>

  const byAdmin: Record<string, Act> = {
    rename: (id) => stage.client.patch(`${path}/${id}`, { name: 'N' }, as(cast.admin)),
    'role change': (id) => setRole(cast.admin, id, cast.viewer, 'editor'),
    removal: (id) => remove(cast.admin, id, cast.viewer),
    invitation: (id) =>
      stage.client.post(`${path}/${id}/invitations`, { email: 'race@example.com', role: 'viewer' }, as(cast.admin)),
    cancellation: (id, invitation) => stage.client.delete(`${path}/${id}/invitations/${invitation.id}`, as(cast.admin)),
  }
  const cases: [name: string, act: Act, change: Change, expected: string][] = [
    ...Object.entries(byAdmin).flatMap(([name, act]): typeof cases => [
      [`${name} by an admin who is being made an editor`, act, become('admin', 'editor'), low],
      [`${name} by an admin who is being removed`, act, vanish('admin'), gone],
      [`${name} by an admin of a team that is being deleted`, act, disband, gone],
    ]),
    [
      'removal of one who is being made an admin',
      (id) => remove(cast.admin, id, cast.viewer),
      become('viewer', 'admin'),
      low,
    ],
    ['removal of one who is leaving', (id) => remove(cast.admin, id, cast.viewer), vanish('viewer'), noMember],
    [
      'role change of one who is being made an admin',
      (id) => setRole(cast.admin, id, cast.viewer, 'editor'),
      become('viewer', 'admin'),
      low,
    ],
    [
      'role change of one who is leaving',
      (id) => setRole(cast.admin, id, cast.viewer, 'editor'),
      vanish('viewer'),
      noMember,
    ],
    ['transfer by an owner who is handing over', (id) => transfer(cast.owner, id, cast.viewer), handTo('admin'), low],
    ['transfer to one who is leaving', (id) => transfer(cast.owner, id, cast.viewer), vanish('viewer'), noMember],
    ['deletion by an owner who is handing over', (id) => removeTeam(cast.owner, id), handTo('admin'), low],
    [
      'leaving of one who is being made the owner',
      (id) => leave(cast.viewer, id),
      handTo('viewer'),
      '409 team.owner_cannot_leave',
    ],
    ['leaving of one who is being removed', (id) => leave(cast.viewer, id), vanish('viewer'), gone],
    [
      'acceptance in a team that is being deleted',
      (_, { secret }) => stage.accept(cast.stranger, secret),
      disband,
      closed,
    ],
    [
      'acceptance of what is being cancelled',
      (_, { secret }) => stage.accept(cast.stranger, secret),
      (tx, id) => tx`update team_invitations set status = 'cancelled', decided_at = now() where team_id = ${id}`,
      closed,
    ],
    [
      'acceptance in a team that is being bound',
      (_, { secret }) => stage.accept(cast.stranger, secret),
      (tx, id) => tx`update teams set max_members = 8 where id = ${id}`,
      '409 team.full',
    ],
  ]

  for (const [name, act, change, expected] of cases) {
    test(name, async () => {
      const id = await stage.foundFor(cast)
      const invitation = await stage.invite(cast.owner, id, cast.stranger.email)
      const answer = await stage.overtake(
        id,
        () => act(id, invitation),
        async (tx) => change(tx, id),
      )
      expect(told(answer)).toBe(expected)
    })
  }
})

describe('take turns and need no second try:', () => {
  const patchProject = (by: Person, project: string, visibility: string) =>
    stage.client.patch(`/api/v1/projects/${project}`, { visibility }, as(by))
  const patchGrant = (by: Person, project: string, id: string) =>
    stage.client.patch(`/api/v1/projects/${project}/teams/${id}`, { access_level: 'read' }, as(by))

  test('the deletion of a team and changes of the projects granted to it', async () => {
    for (let round = 0; round < 10; round += 1) {
      const id = await stage.foundFor(cast)
      const projects = [await stage.share(cast.stranger, id), await stage.share(cast.stranger, id)] as const
      begun = 0
      const answers = await Promise.all([
        patchProject(cast.stranger, projects[0], 'public'),
        patchProject(cast.stranger, projects[1], 'private'),
        removeTeam(cast.owner, id),
        patchGrant(cast.stranger, projects[1], id),
        patchGrant(cast.stranger, projects[0], id),
      ])
      for (const answer of answers) expect(['200', '204', '404 project.grant_not_found']).toContain(told(answer))
      expect(begun).toBe(answers.length)
    }
  })

  test('the deletion of a team and the closing of an account that is in it and in others', async () => {
    for (let round = 0; round < 10; round += 1) {
      const guest = await stage.person()
      const ids = [
        await stage.found(cast.owner, [[guest, 'viewer']]),
        await stage.found(cast.owner, [[guest, 'viewer']]),
      ]
      const project = await stage.share(cast.owner, ids[0] as string)
      await stage.grant(project, ids[1] as string, 'read', cast.owner)
      begun = 0
      const answers = await Promise.all([
        removeTeam(cast.owner, ids[1] as string),
        stage.client.delete('/api/v1/auth/me', as(guest)),
      ])
      expect(answers.map(told)).toEqual(['204', '204'])
      expect(begun).toBe(answers.length + 1)
    }
  })

  test('who may not delete a team does not wait for its projects', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id)
    await stage.services.database.admin.begin(async (tx) => {
      await tx`select from projects where id = ${project} for no key update`
      expect(told(await removeTeam(cast.admin, id))).toBe(low)
    })
  })

  test('the closing of an account and changes in all its teams', async () => {
    for (let round = 0; round < 10; round += 1) {
      const guest = await stage.person()
      const ids: string[] = []
      const projects: string[] = []
      for (let index = 0; index < 4; index += 1) {
        ids.unshift(await stage.found(cast.owner, [[guest, 'viewer']]))
        projects.push(await stage.share(cast.owner, ids[0] as string))
      }
      // One project of them all, so that a change of it, too, takes many teams.
      for (const id of ids.slice(0, 3)) await stage.grant(projects[0] as string, id, 'read', cast.owner)
      const invited = await stage.found(cast.owner)
      const { secret } = await stage.invite(cast.owner, invited, guest.email)
      begun = 0
      const answers = await Promise.all([
        stage.client.delete('/api/v1/auth/me', as(guest)),
        ...ids.map((id) => setRole(cast.owner, id, guest, 'editor')),
        ...projects.map((project) => patchProject(cast.owner, project, 'public')),
        patchProject(cast.owner, projects[0] as string, 'private'),
      ])
      expect(begun).toBe(answers.length + 1)
      expect(told(await stage.accept(guest, secret))).toBe('401 identity.not_signed_in')
    }
  })
})

test('whatever many people do at once: one owner, no more members than allowed, no access that should not be', async () => {
  const { database } = stage.services
  const people = [cast.owner, cast.admin, cast.editor, cast.viewer, cast.stranger, await stage.person()]
  const pick = <T>(from: readonly T[]) => from[Math.floor(Math.random() * from.length)] as T
  const roles = ['admin', 'editor', 'contributor', 'viewer'] as const
  const seen: Record<string, number> = {}
  for (let round = 0; round < 4; round += 1) {
    const members = people.slice(1, 4).map((person, index) => [person, roles[index] as TeamRole] as const)
    const ids = [
      await stage.found(cast.owner, members, { max_members: 5 }),
      await stage.found(cast.owner, members, { max_members: 5 }),
    ]
    const projects = [
      [await stage.share(cast.owner, ids[0] as string), cast.owner],
      [await stage.share(cast.admin, ids[1] as string), cast.admin],
    ] as const
    const secrets: string[] = []
    const acts: (() => Promise<Answer | undefined>)[] = [
      () => transfer(pick(people), pick(ids), pick(people)),
      () => transfer(pick(people), pick(ids), pick(people)),
      () => remove(pick(people), pick(ids), pick(people)),
      () => setRole(pick(people), pick(ids), pick(people), pick(roles)),
      () => leave(pick(people), pick(ids)),
      () =>
        stage.client.patch(
          `${path}/${pick(ids)}`,
          { max_members: 3 + Math.floor(Math.random() * 4) },
          as(pick(people)),
        ),
      async () => {
        const { email } = pick(people)
        const answer = await stage.client.post(
          `${path}/${pick(ids)}/invitations`,
          { email, role: pick(roles) },
          as(pick(people)),
        )
        if (answer.status === 201) secrets.push(answer.body.secret)
        return answer
      },
      async () => (secrets.length > 0 ? stage.accept(pick(people), pick(secrets)) : undefined),
      async () => (secrets.length > 0 ? stage.accept(pick(people), pick(secrets)) : undefined),
      () => {
        const [project, owner] = pick(projects)
        const grant = { team_id: pick(ids), access_level: 'write' }
        return stage.client.post(`/api/v1/projects/${project}/teams`, grant, as(owner))
      },
      () => {
        const [project, owner] = pick(projects)
        return stage.client.delete(`/api/v1/projects/${project}/teams/${pick(ids)}`, as(owner))
      },
      () => {
        const [project, owner] = pick(projects)
        const visibility = pick(['private', 'team-only', 'public'])
        return stage.client.patch(`/api/v1/projects/${project}`, { visibility }, as(owner))
      },
    ]
    const workers = Array.from({ length: 8 }, async () => {
      for (let index = 0; index < 40; index += 1) {
        const answer = await pick(acts)()
        if (answer !== undefined) seen[told(answer)] = (seen[told(answer)] ?? 0) + 1
      }
    })
    const late = (async () => {
      await Bun.sleep(150)
      // Whoever owns it by now deletes it in the middle of all this.
      for (const person of people) {
        const answer = await removeTeam(person, ids[1] as string)
        seen[told(answer)] = (seen[told(answer)] ?? 0) + 1
      }
    })()
    await Promise.all([...workers, late])
    expect(await findAccessDifferences(database.admin)).toEqual([])
    for (const id of ids) {
      const [team] = await database.admin<{ max_members: number }[]>`select max_members from teams where id = ${id}`
      const by = await stage.members(id)
      if (team === undefined) {
        expect(Object.values(by).flat()).toEqual([])
        continue
      }
      expect(by.owner).toHaveLength(1)
      expect(Object.values(by).flat().length).toBeLessThanOrEqual(team.max_members)
    }
  }
  expect(Object.keys(seen).filter((answer) => answer.startsWith('5'))).toEqual([])
  // It was a real mixture and not one refusal after the other.
  for (const answer of ['200', '201', '204', low, gone]) expect(seen[answer] ?? 0).toBeGreaterThan(0)
})
