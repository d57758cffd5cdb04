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

type Stage = { owner: Person; maker: Person; picture: Picture; team: string }
type Ending = (stage: Stage) => Promise<unknown>

/** The picture is in a project shown to a team that the maker of the link edits in. */
const setUp = async (): Promise<Stage> => {
  const maker = await world.person()
  const picture = await world.picture(ada, 'team-only')
  return { owner: ada, maker, picture, team: await world.letIn(ada, picture.project, maker, 'editor') }
}

/** What takes the right away from the maker. */
const losses: Record<string, Ending> = {
  'the project is made private': ({ owner, picture }) =>
    world.done(world.as(owner).patch(`/projects/${picture.project}`, { visibility: 'private' }), 200),
  'the grant is withdrawn': ({ owner, picture, team }) =>
    world.done(world.as(owner).delete(`/projects/${picture.project}/teams/${team}`), 204),
  'its maker is taken out of the team': ({ owner, maker, team }) =>
    world.done(world.as(owner).delete(`/teams/${team}/members/${maker.id}`), 204),
  'its maker leaves the team': ({ maker, team }) => world.done(world.as(maker).post(`/teams/${team}/leave`), 204),
  'the team is deleted': ({ owner, team }) => world.done(world.as(owner).delete(`/teams/${team}`), 204),
  'its maker is suspended': async ({ maker }) =>
    world.done(world.as(await world.operator()).patch(`/users/${maker.id}`, { status: 'suspended' }), 200),
  'its maker closes the account': ({ maker }) => world.done(world.as(maker).delete('/auth/me'), 204),
  'the generation is deleted': ({ owner, picture }) =>
    world.done(world.as(owner).delete(`/generations/${picture.generation}`), 204),
  'the generation leaves the project': ({ owner, picture }) =>
    world.done(world.as(owner).patch(`/generations/${picture.generation}`, { project_id: null }), 200),
  'the project is deleted': ({ owner, picture }) =>
    world.done(world.as(owner).delete(`/projects/${picture.project}`), 204),
}

/** What ends the maker's session. */
const sessionEndings: Record<string, Ending> = {
  'it signs out': ({ maker }) => world.done(world.as(maker).post('/auth/logout'), 204),
  'it signs out everywhere': async ({ maker }) =>
    world.done(world.as(await world.login(maker)).post('/auth/logout-all'), 204),
  'it ends that session from another': async ({ maker }) => {
    const other = await world.login(maker)
    const { items } = await world.done(world.as(other).get('/auth/sessions'), 200)
    const that = items.find(({ current }: { current: boolean }) => !current)
    await world.done(world.as(other).delete(`/auth/sessions/${that.id}`), 204)
  },
  'it changes its password elsewhere': async ({ maker }) => {
    const change = { current_password: maker.password, new_password: 'eight green bottles hanging' }
    const answer = await world.as(await world.login(maker)).post('/auth/password', change)
    expect(answer.status).toBeLessThan(300)
  },
}

/** Opens on the other instance, whose memory has all of it by then. */
const opensThere = async (target: string) => {
  for (let times = 0; times < 3; times += 1) expect(await openOn(world.there, target)).toBe('200')
  await world.there.leased()
}

describe('a signed link opens nothing on another instance by the time that', () => {
  for (const [what, end] of Object.entries({ ...losses, ...sessionEndings })) {
    test(what, async () => {
      const stage = await setUp()
      const link = await world.sign(stage.maker, stage.picture)
      await opensThere(link)
      await end(stage)
      expect(await openOn(world.there, link)).toBe(refused)
      expect(await openOn(world.here, link)).toBe(refused)
    }, 30_000)
  }

  test('and opens again with the right, as long as the session lives', async () => {
    const { owner, maker, picture } = await setUp()
    const link = await world.sign(maker, picture)
    for (const [visibility, expected] of [
      ['private', refused],
      ['public', '200'],
      ['private', refused],
    ] as const) {
      await world.done(world.as(owner).patch(`/projects/${picture.project}`, { visibility }), 200)
      expect(await openOn(world.there, link)).toBe(expected)
    }
  })
})

describe('a share link opens nothing on another instance by the time that', () => {
  const lowered: Ending = ({ owner, maker, team }) =>
    world.done(world.as(owner).patch(`/teams/${team}/members/${maker.id}`, { role: 'viewer' }), 200)
  const levelLowered: Ending = ({ owner, picture, team }) =>
    world.done(world.as(owner).patch(`/projects/${picture.project}/teams/${team}`, { access_level: 'read' }), 200)

  for (const [what, end] of Object.entries({
    ...losses,
    'its maker may only look, and not share': lowered,
    'the team may only look, and not share': levelLowered,
  })) {
    test(what, async () => {
      const stage = await setUp()
      const { target } = await world.share(stage.maker, stage.picture)
      await opensThere(target)
      await end(stage)
      expect(await openOn(world.there, target)).toBe(refused)
      expect(await openOn(world.here, target)).toBe(refused)
    }, 30_000)
  }

  test('it is removed, and only that one', async () => {
    const { maker, picture } = await setUp()
    const [one, other] = [await world.share(maker, picture), await world.share(maker, picture)]
    for (const { target } of [one, other]) await opensThere(target)
    await world.done(world.as(maker).delete(`${picture.path}/share-links/${one.id}`), 204)
    expect([await openOn(world.there, one.target), await openOn(world.there, other.target)]).toEqual([refused, '200'])
  })

  test('but outlives the session it was made in', async () => {
    for (const end of Object.values(sessionEndings)) {
      const stage = await setUp()
      const { target } = await world.share(stage.maker, stage.picture)
      await opensThere(target)
      await end(stage)
      expect(await openOn(world.there, target)).toBe('200')
    }
  }, 60_000)
})
