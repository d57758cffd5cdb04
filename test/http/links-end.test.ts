import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../harness.ts'
import { type LinksWorld, openOn, type Picture, refused, startLinks } from './links-world.ts'

let world: LinksWorld
let ada: Person
beforeAll(async () => {
  world = await startLinks()
  ada = await world.person()
}, 60_000)
afterAll(() => world.close())

type Scenario = { owner: Person; creator: Person; picture: Picture; team: string }
type Revocation = (scenario: Scenario) => Promise<unknown>

/** A picture in a project that is granted to a team in which the creator of the link is an editor. */
const createScenario = async (): Promise<Scenario> => {
  const creator = await world.person()
  const picture = await world.picture(ada, 'team-only')
  return { owner: ada, creator, picture, team: await world.grantByTeam(ada, picture.project, creator, 'editor') }
}

/** Revokes the creator's permission. */
const permissionLosses: Record<string, Revocation> = {
  'the project becomes private': ({ owner, picture }) =>
    world.expectStatus(world.as(owner).patch(`/projects/${picture.project}`, { visibility: 'private' }), 200),
  'the grant is withdrawn': ({ owner, picture, team }) =>
    world.expectStatus(world.as(owner).delete(`/projects/${picture.project}/teams/${team}`), 204),
  'its creator is removed from the team': ({ owner, creator, team }) =>
    world.expectStatus(world.as(owner).delete(`/teams/${team}/members/${creator.id}`), 204),
  'its creator leaves the team': ({ creator, team }) =>
    world.expectStatus(world.as(creator).post(`/teams/${team}/leave`), 204),
  'the team is deleted': ({ owner, team }) => world.expectStatus(world.as(owner).delete(`/teams/${team}`), 204),
  'its creator is suspended': async ({ creator }) =>
    world.expectStatus(world.as(await world.operator()).patch(`/users/${creator.id}`, { status: 'suspended' }), 200),
  'its creator closes the account': ({ creator }) => world.expectStatus(world.as(creator).delete('/auth/me'), 204),
  'the generation is deleted': ({ owner, picture }) =>
    world.expectStatus(world.as(owner).delete(`/generations/${picture.generation}`), 204),
  'the generation leaves the project': ({ owner, picture }) =>
    world.expectStatus(world.as(owner).patch(`/generations/${picture.generation}`, { project_id: null }), 200),
  'the project is deleted': ({ owner, picture }) =>
    world.expectStatus(world.as(owner).delete(`/projects/${picture.project}`), 204),
}

/** Ends the session of the creator. */
const sessionEndings: Record<string, Revocation> = {
  'its creator logs out': ({ creator }) => world.expectStatus(world.as(creator).post('/auth/logout'), 204),
  'its creator logs out everywhere': async ({ creator }) =>
    world.expectStatus(world.as(await world.login(creator)).post('/auth/logout-all'), 204),
  'its creator ends that session from another one': async ({ creator }) => {
    const other = await world.login(creator)
    const { items } = await world.expectStatus(world.as(other).get('/auth/sessions'), 200)
    const linkSession = items.find(({ current }: { current: boolean }) => !current)
    await world.expectStatus(world.as(other).delete(`/auth/sessions/${linkSession.id}`), 204)
  },
  'its creator changes the password in another session': async ({ creator }) => {
    const change = { current_password: creator.password, new_password: 'eight green bottles hanging' }
    const answer = await world.as(await world.login(creator)).post('/auth/password', change)
    expect(answer.status).toBeLessThan(300)
  },
}

/** Opens the link on the other instance, so that its memory has all facts. */
const warmThere = async (target: string) => {
  for (let times = 0; times < 3; times += 1) expect(await openOn(world.there, target)).toBe('200')
  await world.there.leased()
}

describe('a signed link is refused on every instance once', () => {
  for (const [name, revoke] of Object.entries({ ...permissionLosses, ...sessionEndings })) {
    test(name, async () => {
      const scenario = await createScenario()
      const link = await world.sign(scenario.creator, scenario.picture)
      await warmThere(link)
      await revoke(scenario)
      expect(await openOn(world.there, link)).toBe(refused)
      expect(await openOn(world.here, link)).toBe(refused)
    }, 30_000)
  }

  test('its permission is lost, and opens again with it while the session lasts', async () => {
    const { owner, creator, picture } = await createScenario()
    const link = await world.sign(creator, picture)
    for (const [visibility, expected] of [
      ['private', refused],
      ['public', '200'],
      ['private', refused],
    ] as const) {
      await world.expectStatus(world.as(owner).patch(`/projects/${picture.project}`, { visibility }), 200)
      expect(await openOn(world.there, link)).toBe(expected)
    }
  })
})

describe('a share link is refused on every instance once', () => {
  const roleLowered: Revocation = ({ owner, creator, team }) =>
    world.expectStatus(world.as(owner).patch(`/teams/${team}/members/${creator.id}`, { role: 'viewer' }), 200)
  const levelLowered: Revocation = ({ owner, picture, team }) =>
    world.expectStatus(
      world.as(owner).patch(`/projects/${picture.project}/teams/${team}`, { access_level: 'read' }),
      200,
    )

  for (const [name, revoke] of Object.entries({
    ...permissionLosses,
    'the role of its creator no longer includes share': roleLowered,
    'the access level of the team no longer includes share': levelLowered,
  })) {
    test(name, async () => {
      const scenario = await createScenario()
      const { target } = await world.share(scenario.creator, scenario.picture)
      await warmThere(target)
      await revoke(scenario)
      expect(await openOn(world.there, target)).toBe(refused)
      expect(await openOn(world.here, target)).toBe(refused)
    }, 30_000)
  }

  test('it is removed, without affecting others', async () => {
    const { creator, picture } = await createScenario()
    const [one, other] = [await world.share(creator, picture), await world.share(creator, picture)]
    for (const { target } of [one, other]) await warmThere(target)
    await world.expectStatus(world.as(creator).delete(`${picture.path}/share-links/${one.id}`), 204)
    expect([await openOn(world.there, one.target), await openOn(world.there, other.target)]).toEqual([refused, '200'])
  })

  test('its permission is lost, but not when the session of its creator ends', async () => {
    for (const revoke of Object.values(sessionEndings)) {
      const scenario = await createScenario()
      const { target } = await world.share(scenario.creator, scenario.picture)
      await warmThere(target)
      await revoke(scenario)
      expect(await openOn(world.there, target)).toBe('200')
    }
  }, 60_000)
})
