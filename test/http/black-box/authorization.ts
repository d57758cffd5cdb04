import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const check = '/api/v1/authorization/check'
const actions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin'] as const
const layers = [
  [10, 'rate_and_anomaly'],
  [4, 'security_context'],
  [9, 'emergency'],
  [7, 'performance'],
  [1, 'direct_ownership'],
  [2, 'team_access'],
  [3, 'project_visibility'],
  [5, 'lineage'],
  [6, 'media'],
  [8, 'audit'],
] as const

type Resource = { type: 'project' | 'generation'; id: string }

export const authorization: Group = (world) =>
  describe('authorization', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const project = async (visibility: string): Promise<Resource> => {
      const { body } = await world().post('/api/v1/projects', { name: 'Checked', visibility }, { token: owner.token })
      return { type: 'project', id: body.id }
    }
    const generation = async (project_id?: string): Promise<Resource> => {
      const input = {
        model: 'local/procedural',
        prompt: 'p',
        parameters: { width: 64, height: 64 },
        ...(project_id !== undefined && { project_id }),
      }
      const { body } = await world().post('/api/v1/generations', input, { token: owner.token })
      return { type: 'generation', id: body.id }
    }
    const decide = async ({ token }: Person, action: string, resource: Resource) => {
      const { status, body } = await world().post(check, { action, resource }, { token })
      expect(status).toBe(200)
      return body as { allowed: boolean; reason: string }
    }
    const allowed = async (person: Person, resource: Resource) => {
      const checks = actions.map((action) => ({ action, resource }))
      const { body } = await world().post(`${check}/batch`, { checks }, { token: person.token })
      return actions.filter((_, index) => body.results[index].allowed)
    }

    test('the owner of a project may do everything to it', async () => {
      expect(await allowed(owner, await project('private'))).toEqual([...actions])
    })

    test('the owner of a generation may do everything to it except administer it', async () => {
      expect(await allowed(owner, await generation())).toEqual(actions.filter((action) => action !== 'admin'))
    })

    test('a stranger may do nothing, unless the project is public: then read and download', async () => {
      for (const [visibility, may] of [
        ['private', []],
        ['team-only', []],
        ['public', ['read', 'download']],
      ] as const) {
        const shown = await project(visibility)
        expect(await allowed(stranger, shown)).toEqual([...may])
        expect(await allowed(stranger, await generation(shown.id))).toEqual([...may])
      }
      expect(await allowed(stranger, await generation())).toEqual([])
    })

    test('every action on a resource that does not exist is denied', async () => {
      for (const type of ['project', 'generation'] as const) {
        expect(await allowed(owner, { type, id: unknownId })).toEqual([])
        expect(await allowed(stranger, { type, id: owner.id })).toEqual([])
      }
    })

    test('a resource is not found under another type', async () => {
      const [aProject, aGeneration] = [await project('private'), await generation()]
      expect(await allowed(owner, { ...aProject, type: 'generation' })).toEqual([])
      expect(await allowed(owner, { ...aGeneration, type: 'project' })).toEqual([])
    })

    test('a batch returns the decisions of the single checks, in the order of the request', async () => {
      const things = [await project('private'), await project('public'), await generation(), await generation()]
      const checks = things.flatMap((resource) => actions.map((action) => ({ action, resource })))
      const { body } = await world().post(`${check}/batch`, { checks }, { token: stranger.token })
      for (const [index, { action, resource }] of checks.entries()) {
        expect(body.results[index]).toEqual(await decide(stranger, action, resource))
      }
      expect(body.results).toHaveLength(checks.length)
    })

    test('a batch has 1 to 200 checks', async () => {
      const resource = await project('private')
      const batch = (length: number) =>
        world().post(
          `${check}/batch`,
          { checks: Array.from({ length }, () => ({ action: 'read', resource })) },
          { token: owner.token },
        )
      expect((await batch(200)).body.results).toEqual(
        Array(200).fill({ allowed: true, reason: 'ownership.project_owner' }),
      )
      expect(refusal(await batch(0))).toBe('422 request.invalid')
      expect(refusal(await batch(201))).toBe('422 request.invalid')
    })

    test('explain returns the decision of check and the verdicts of the ten layers, in order', async () => {
      const shown = await project('public')
      for (const [person, action, verdict] of [
        [owner, 'delete', { allowed: true, reason: 'ownership.project_owner' }],
        [stranger, 'read', { allowed: true, reason: 'visibility.public' }],
        [stranger, 'write', { allowed: false, reason: 'default.deny' }],
      ] as const) {
        const { status, body } = await world().post(
          '/api/v1/authorization/explain',
          { action, resource: shown },
          { token: person.token },
        )
        expect(status).toBe(200)
        expect({ allowed: body.allowed, reason: body.reason }).toEqual(verdict)
        expect(await decide(person, action, shown)).toEqual(verdict)
        expect(body.layers.map(({ layer, name }: { layer: number; name: string }) => [layer, name])).toEqual([
          ...layers,
        ])
        expect(body.layers.some((line: { verdict: string }) => line.verdict === 'allow')).toBe(verdict.allowed)
        expect(body.layers[3].tier).toMatch(/^(l1|l2|l3)$/)
      }
    })

    test('a change is in effect for the next check', async () => {
      const shown = await project('public')
      const inside = await generation(shown.id)
      const path = `/api/v1/projects/${shown.id}`
      const read = async () => [
        (await decide(stranger, 'read', shown)).allowed,
        (await decide(stranger, 'read', inside)).allowed,
      ]
      for (let round = 0; round < 5; round += 1) {
        expect(await read()).toEqual([true, true])
        await world().patch(path, { visibility: 'private' }, { token: owner.token })
        expect(await read()).toEqual([false, false])
        await world().patch(path, { visibility: 'public' }, { token: owner.token })
      }
      expect(await read()).toEqual([true, true])
      await world().delete(path, { token: owner.token })
      expect(await read()).toEqual([false, false])
      expect((await decide(owner, 'read', shown)).allowed).toBe(false)
      expect((await decide(owner, 'read', inside)).allowed).toBe(true)
    })

    test('a resource that was checked before it existed is found once it exists', async () => {
      const { id: project_id } = await project('private')
      const guess = { type: 'project', id: unknownId } as const
      expect((await decide(owner, 'read', guess)).allowed).toBe(false)
      expect((await decide(owner, 'read', await generation(project_id))).allowed).toBe(true)
    })

    test('needs an active session', async () => {
      const person = await world().register()
      const resource = await project('public')
      expect((await decide(person, 'read', resource)).allowed).toBe(true)
      await world().post('/api/v1/auth/logout', undefined, { token: person.token })
      for (const path of [check, '/api/v1/authorization/explain']) {
        const answer = await world().post(path, { action: 'read', resource }, { token: person.token })
        expect(refusal(answer)).toBe('401 identity.not_signed_in')
      }
      const batch = { checks: [{ action: 'read', resource }] }
      expect(refusal(await world().post(`${check}/batch`, batch, { token: person.token }))).toBe(
        '401 identity.not_signed_in',
      )
    })
  })
