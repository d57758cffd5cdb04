import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Answer, Person } from '../harness.ts'
import { codesOf, project, startWorld, type World } from './projects-world.ts'

let world: World
let owner: Person
let second: Person
let third: Person
let team: string

const rounds = 25

beforeAll(async () => {
  world = await startWorld()
  ;({ owner, second, third } = await world.people('owner', 'second', 'third'))
  team = await world.team([
    [owner, 'owner'],
    [second, 'admin'],
    [third, 'viewer'],
  ])
})
afterAll(async () => {
  expect(await world.sql`select from project_access_difference`).toHaveLength(0)
  await world.close()
})

const shared = async (level: 'read' | 'admin' = 'read') => {
  const id = await world.project(owner, { visibility: 'team-only' })
  await world.grantAccess(id, team, level, owner)
  return id
}

const ownerOf = async (id: string): Promise<string | undefined> => {
  const [row] = await world.sql<{ owner_id: string }[]>`select owner_id from projects where id = ${id}`
  return row?.owner_id
}

const transfer = (from: Person, id: string, to: Person) =>
  world.as(from).post(`/projects/${id}/transfer`, { owner_id: to.id })

describe('concurrent changes of a project:', () => {
  test('of two transfers one succeeds and the other is refused', async () => {
    for (let round = 0; round < rounds; round += 1) {
      const id = await shared()
      const answers = await Promise.all([transfer(owner, id, second), transfer(owner, id, third)])
      expect(codesOf(answers).toSorted()).toEqual(['200', '403 access.denied'])
      expect(await ownerOf(id)).toBe(answers[0]?.status === 200 ? second.id : third.id)
      expect(await world.may(owner, 'admin', project(id))).toBe(false)
    }
  })

  test('of a transfer and a deletion by the previous owner, the first succeeds and the other fails', async () => {
    for (let round = 0; round < rounds; round += 1) {
      const id = await shared()
      const [moved, removed] = await Promise.all([
        transfer(owner, id, second),
        world.as(owner).delete(`/projects/${id}`),
      ])
      const codes = codesOf([moved, removed])
      if (moved.status === 200) {
        expect(codes).toEqual(['200', '403 access.denied'])
        expect(await ownerOf(id)).toBe(second.id)
      } else {
        expect(codes).toEqual(['404 project.not_found', '204'])
        expect(await ownerOf(id)).toBeUndefined()
      }
      expect(await world.may(owner, 'delete', project(id))).toBe(false)
    }
  })

  test('a grant and a deletion leave neither a grant nor access', async () => {
    for (let round = 0; round < rounds; round += 1) {
      const id = await world.project(owner, { visibility: 'team-only' })
      const [granted, removed] = await Promise.all([
        world.as(owner).post(`/projects/${id}/teams`, { team_id: team, access_level: 'admin' }),
        world.as(owner).delete(`/projects/${id}`),
      ])
      expect(removed.status).toBe(204)
      expect(['201', '404 project.not_found']).toContain(codesOf([granted])[0] as string)
      expect(await world.may(second, 'read', project(id))).toBe(false)
      expect(await world.sql`select from project_grants where project_id = ${id}`).toHaveLength(0)
      expect(await world.sql`select from project_access where project_id = ${id}`).toHaveLength(0)
    }
  })

  test('of ten equal grants one is created and the others get 409', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const answers = await Promise.all(
      Array.from({ length: 10 }, () =>
        world.as(owner).post(`/projects/${id}/teams`, { team_id: team, access_level: 'read' }),
      ),
    )
    expect(codesOf(answers).toSorted()).toEqual(['201', ...Array(9).fill('409 project.grant_exists')])
  })

  test('generations created in or moved into a project during its deletion are refused, or end up outside of any project', async () => {
    for (let round = 0; round < rounds; round += 1) {
      const id = await world.project(owner)
      const mover = await world.generation(owner)
      const asked = { model: 'local/procedural', prompt: 'a lighthouse', project_id: id }
      const [removed, moved, ...made] = await Promise.all([
        world.as(owner).delete(`/projects/${id}`),
        world.as(owner).patch(`/generations/${mover}`, { project_id: id }),
        world.as(owner).post('/generations', asked),
        world.as(owner).post('/generations', asked),
      ])
      expect(removed?.status).toBe(204)
      for (const answer of [moved as Answer, ...made]) {
        expect(['200', '201', '404 project.not_found']).toContain(codesOf([answer])[0] as string)
        if (answer.status === 404) continue
        const { status, body } = await world.as(owner).get(`/generations/${answer.body.id}`)
        expect({ status, project_id: body.project_id }).toEqual({ status: 200, project_id: null })
      }
    }
  })
})

describe('a call that passed the guard before a concurrent change is decided again:', () => {
  const held = (id: string) => world.sql`select from projects where id = ${id} for update`

  test('after a transfer, all calls of the previous owner are refused', async () => {
    const id = await shared()
    const other = await world.team([[owner, 'owner']])
    const answers = await world.changeWhileWaiting(
      held(id),
      () => [
        transfer(owner, id, third),
        world.as(owner).delete(`/projects/${id}`),
        world.as(owner).patch(`/projects/${id}`, { visibility: 'public' }),
        world.as(owner).patch(`/projects/${id}`, { name: 'renamed' }),
        world.as(owner).post(`/projects/${id}/teams`, { team_id: other, access_level: 'read' }),
        world.as(owner).patch(`/projects/${id}/teams/${team}`, { access_level: 'admin' }),
        world.as(owner).delete(`/projects/${id}/teams/${team}`),
      ],
      world.sql`update projects set owner_id = ${second.id} where id = ${id}`,
    )
    expect(codesOf(answers)).toEqual(Array(7).fill('403 access.denied'))
    const [row] = await world.sql`select owner_id, name, visibility from projects where id = ${id}`
    expect(row).toEqual({ owner_id: second.id, name: 'a project', visibility: 'team-only' })
    expect(await world.sql`select access_level from project_grants where project_id = ${id}`).toMatchObject([
      { access_level: 'read' },
    ])
  })

  test('after a deletion, every call answers as for an unknown project', async () => {
    const id = await shared()
    const answers = await world.changeWhileWaiting(
      held(id),
      () => [
        transfer(owner, id, third),
        world.as(owner).delete(`/projects/${id}`),
        world.as(owner).patch(`/projects/${id}`, { visibility: 'public' }),
        world.as(owner).post(`/projects/${id}/teams`, { team_id: team, access_level: 'read' }),
        world.as(owner).delete(`/projects/${id}/teams/${team}`),
        world.as(owner).post('/generations', { model: 'local/procedural', prompt: 'p', project_id: id }),
      ],
      world.sql`delete from projects where id = ${id}`,
    )
    expect(codesOf(answers)).toEqual(Array(6).fill('404 project.not_found'))
  })

  test('after or during a demotion in the team, the caller cannot grant it access', async () => {
    const id = await world.project(second)
    const lowered = world.sql`update team_members set role = 'editor' where team_id = ${team} and user_id = ${second.id}`
    const grantTeam = () => [world.as(second).post(`/projects/${id}/teams`, { team_id: team, access_level: 'read' })]
    expect(codesOf(await world.changeWhileWaiting(held(id), grantTeam, lowered))).toEqual(['403 team.role_too_low'])
    await world.sql`update team_members set role = 'admin' where team_id = ${team} and user_id = ${second.id}`
    expect(codesOf(await world.changeWhileWaiting(lowered, grantTeam, world.sql`select`))).toEqual([
      '403 team.role_too_low',
    ])
    await world.sql`update team_members set role = 'admin' where team_id = ${team} and user_id = ${second.id}`
  })
})
