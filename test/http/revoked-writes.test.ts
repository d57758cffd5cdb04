import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { hold, holdUser } from '../faults/support.ts'
import type { Answer, Person } from '../harness.ts'
import { type LinksWorld, type Picture, startLinks } from './links-world.ts'
import { codesOf } from './projects-world.ts'

let world: LinksWorld
let owner: Person

beforeAll(async () => {
  world = await startLinks()
  owner = await world.person()
}, 60_000)
afterAll(() => world.close())

const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }

type Scene = { caller: Person; picture: Picture; team: string; shareLink: string }

/** A picture in a project that the caller may write to by being an editor of a team. */
const startScene = async (): Promise<Scene> => {
  const caller = await world.person()
  const picture = await world.picture(owner, 'team-only')
  const team = await world.grantByTeam(owner, picture.project, caller, 'editor')
  const { id } = await world.expectStatus(world.as(owner).post(`${picture.path}/share-links`, {}), 201)
  return { caller, picture, team, shareLink: id }
}

const writes: Record<string, (scene: Scene) => Promise<Answer>> = {
  'an order into a project': ({ caller, picture }) =>
    world.as(caller).post('/generations', { ...order, project_id: picture.project }),
  'an order derived from a generation': ({ caller, picture }) =>
    world.as(caller).post('/generations', { ...order, parent_id: picture.generation, intent: 'remix' }),
  'a favorite': ({ caller, picture }) =>
    world.as(caller).post(`/generations/${picture.generation}/favorite`, { favorite: true }),
  'a share link': ({ caller, picture }) => world.as(caller).post(`${picture.path}/share-links`, {}),
  'the removal of a share link': ({ caller, picture, shareLink }) =>
    world.as(caller).delete(`${picture.path}/share-links/${shareLink}`),
  'a new title of a generation': ({ caller, picture }) =>
    world.as(caller).patch(`/generations/${picture.generation}`, { title: 'Mine' }),
  'a new name of a project': ({ caller, picture }) =>
    world.as(caller).patch(`/projects/${picture.project}`, { name: 'Mine' }),
}

describe('after the caller was removed from the team, a call that passed the guard before is refused:', () => {
  for (const [name, write] of Object.entries(writes)) {
    test(name, async () => {
      const scene = await startScene()
      const { caller, picture, team } = scene
      // Warm: the guard decides from memory, so the call waits inside its transaction.
      expect((await world.as(caller).get(`/generations/${picture.generation}`)).status).toBe(200)
      await world.here.leased()
      const held = await hold(world.here.connection, async (tx) => {
        await tx`select from users where id = ${caller.id} for update`
        await tx`select from share_links where id = ${scene.shareLink} for update`
        await tx`select from generations where id = ${picture.generation} for update`
        await tx`select from projects where id = ${picture.project} for update`
      })
      const sent = write(scene)
      await held.waiting(1)
      await world.sql`delete from team_members where team_id = ${team} and user_id = ${caller.id}`
      await held.release()
      expect(codesOf([await sent])[0]).toStartWith('404 ')
    })
  }

  test('nothing was written', async () => {
    const scene = await startScene()
    const { caller, picture, team } = scene
    const held = await holdUser(world.here.connection, caller.id)
    const sent = ['an order into a project', 'a favorite', 'a share link'].map((name) => writes[name]?.(scene))
    await held.waiting(3)
    await world.sql`delete from team_members where team_id = ${team} and user_id = ${caller.id}`
    await held.release()
    for (const answer of await Promise.all(sent)) expect(answer?.status).toBe(404)
    const [row] = await world.sql`
      select (select count(*)::int from generations where owner_id = ${caller.id}) as generations,
             (select count(*)::int from generation_favorites where user_id = ${caller.id}) as favorites,
             (select count(*)::int from share_links where created_by = ${caller.id}) as links,
             (select count(*)::int from project_access where project_id = ${picture.project}) as access`
    expect({ ...row }).toEqual({ generations: 0, favorites: 0, links: 0, access: 1 })
  })
})

describe('a revocation waits for an order that was decided under its locks, and is answered after it:', () => {
  const revocations: Record<string, (scene: Scene) => Promise<Answer>> = {
    'the removal of the member': ({ team, caller }) => world.as(owner).delete(`/teams/${team}/members/${caller.id}`),
    'a lower role': ({ team, caller }) =>
      world.as(owner).patch(`/teams/${team}/members/${caller.id}`, { role: 'viewer' }),
    'the withdrawal of the grant': ({ team, picture }) =>
      world.as(owner).delete(`/projects/${picture.project}/teams/${team}`),
    'a private project': ({ picture }) =>
      world.as(owner).patch(`/projects/${picture.project}`, { visibility: 'private' }),
    'the end of the session': ({ caller }) => world.as(caller).post('/auth/logout-all'),
  }
  for (const [name, revoke] of Object.entries(revocations)) {
    test(name, async () => {
      const scene = await startScene()
      const { caller, picture } = scene
      const held = await hold(
        world.here.connection,
        (tx) => tx`select from credit_balances where user_id = ${caller.id} for update`,
      )
      const answered: string[] = []
      const ordering = world
        .as(caller)
        .post('/generations', { ...order, project_id: picture.project, parent_id: picture.generation, intent: 'remix' })
        .then((answer) => answered.push(`order ${answer.status}`))
      await held.waiting(1)
      const revoking = revoke(scene).then((answer) => answered.push(`revocation ${answer.status < 300}`))
      await held.waiting(2)
      expect(answered).toEqual([])
      await held.release()
      await Promise.all([ordering, revoking])
      expect(answered.toSorted()).toEqual(['order 201', 'revocation true'])
      const again = await world.as(caller).post('/generations', { ...order, project_id: picture.project })
      expect(again.status).toBeGreaterThanOrEqual(400)
    })
  }
})

test('after the account was suspended or its session ended, writes that passed the guard before are refused', async () => {
  for (const end of ['suspended', 'logout'] as const) {
    const caller = await world.person()
    const team = (await world.expectStatus(world.as(caller).post('/teams', { name: 'Keepers' }), 201)).id
    const held = await holdUser(world.here.connection, caller.id)
    const sent = [
      world.as(caller).post('/projects', { name: 'Late' }),
      world.as(caller).post('/teams', { name: 'Late' }),
      world.as(caller).patch(`/teams/${team}`, { name: 'Late' }),
      world.as(caller).post(`/teams/${team}/invitations`, { email: 'late@example.com', role: 'viewer' }),
      world.as(caller).post('/generations', order),
    ]
    await held.waiting(sent.length)
    await world.sql`update sessions set ended_at = now(), end_reason = 'logout' where user_id = ${caller.id} and ${end === 'logout'}`
    await held.release(async (tx) => {
      if (end === 'suspended') await tx`update users set status = 'suspended' where id = ${caller.id}`
    })
    expect(new Set(codesOf(await Promise.all(sent)))).toEqual(new Set(['401 identity.not_signed_in']))
  }
})

test('after its session ended, a change of the password, a profile, an invitation or by an operator is refused', async () => {
  const caller = await world.operator()
  await world.here.caughtUp()
  const [owner, subject] = [await world.person(), await world.person()]
  const team = (await world.expectStatus(world.as(owner).post('/teams', { name: 'Keepers' }), 201)).id
  const invitation = { email: caller.email, role: 'viewer' }
  const { secret } = await world.expectStatus(world.as(owner).post(`/teams/${team}/invitations`, invitation), 201)
  const held = await holdUser(world.here.connection, caller.id)
  const sent = [
    world.as(caller).post('/auth/password', { current_password: caller.password, new_password: 'taken over 123' }),
    world.as(caller).patch('/auth/me', { display_name: 'Taken over' }),
    world.as(caller).post('/teams/invitations/accept', { secret }),
    world.as(caller).patch(`/users/${subject.id}`, { plan: 'pro' }),
    world.as(caller).post('/service-keys', { name: 'late', scopes: ['authorization:check'] }),
  ]
  await held.waiting(sent.length)
  await world.sql`update sessions set ended_at = now(), end_reason = 'logout' where user_id = ${caller.id}`
  await held.release()
  expect(codesOf(await Promise.all(sent))).toEqual(Array(sent.length).fill('401 identity.not_signed_in'))
  expect((await world.login(caller)).token).toBeString()
})
