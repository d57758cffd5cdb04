import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import {
  createPermissionRecheck,
  type PermissionRecheck,
  type StreamPermission,
} from '../../src/access/permission-recheck.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const startDeadline = createDeadlines(systemClock)

let app: TestApp
let client: Api
let permissionRecheck: PermissionRecheck
let people: Person[]
let generationId: string
let projectId: string
const statements: string[] = []

beforeAll(async () => {
  app = await startApp({ onStatement: (text) => void statements.push(text) })
  client = api(app.baseUrl)
  permissionRecheck = createPermissionRecheck({ facts: app.services.caches.facts, clock: systemClock })
  people = await Promise.all(Array.from({ length: 20 }, () => register(client)))
  const owner = { token: people[0]?.token ?? '' }
  projectId = (await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, owner)).body.id
  const asked = { model: 'local/procedural', prompt: 'p', project_id: projectId }
  generationId = (await client.post('/api/v1/generations', asked, owner)).body.id
})
afterAll(() => app?.close())

const permissionOf = async ({ token }: Person): Promise<StreamPermission> => ({
  ...(await app.services.identity.claimsOf(token)),
  action: 'read',
  ref: { type: 'generation', id: generationId },
})
const gather = (permissions: readonly StreamPermission[]) =>
  permissionRecheck.gather(permissions, startDeadline(10_000))

describe('a permission re-check', () => {
  test('of many streams sends one statement, and none once the facts are in memory', async () => {
    const all = await Promise.all(people.map(permissionOf))
    await app.leased()
    app.services.caches.facts.invalidate('everything')
    expect(all.map(permissionRecheck.peek)).toEqual(Array(20).fill(undefined))
    statements.length = 0
    expect(await gather(all)).toEqual(Array(20).fill(true))
    expect(statements).toHaveLength(1)
    await app.leased()
    expect(all.map(permissionRecheck.peek)).toEqual(Array(20).fill(true))
    expect(statements).toHaveLength(1)
  })

  test('fails for an ended, foreign or absent session, an expired token, and an absent resource', async () => {
    const [permission, other, ended] = (await Promise.all(people.slice(1, 4).map(permissionOf))) as [
      StreamPermission,
      StreamPermission,
      StreamPermission,
    ]
    await client.post('/api/v1/auth/logout', undefined, { token: people[3]?.token ?? '' })
    const each: StreamPermission[] = [
      permission,
      ended,
      { ...permission, sessionId: other.sessionId },
      { ...permission, sessionId: newId() },
      { ...permission, expiresAtMs: systemClock.now() },
      { ...permission, ref: { type: 'generation', id: newId() } },
      { ...permission, action: 'delete' },
    ]
    const expected = [true, ...Array(6).fill(false)]
    expect(await gather(each)).toEqual(expected)
    await app.leased()
    expect(each.map(permissionRecheck.peek)).toEqual(expected)
  })

  test('fails once the permission is revoked', async () => {
    const [owner, permission] = [await permissionOf(people[0] as Person), await permissionOf(people[1] as Person)]
    await client.patch(`/api/v1/projects/${projectId}`, { visibility: 'private' }, { token: people[0]?.token ?? '' })
    expect(permissionRecheck.peek(permission)).not.toBe(true)
    expect(await gather([owner, permission])).toEqual([true, false])
  })

  test('is refused, not decided, on stale facts', async () => {
    const permission = await permissionOf(people[0] as Person)
    const { facts } = app.services.caches
    const gatherStale: typeof facts.gather = async (queries) => {
      const stale = facts.peekStale(queries)
      if (stale === undefined) throw new Error('a fact is not in memory')
      return stale
    }
    expect(await gather([permission])).toEqual([true])
    const recheck = createPermissionRecheck({ facts: { ...facts, gather: gatherStale }, clock: systemClock })
    const answer = recheck.gather([permission], startDeadline(10_000)).catch(({ code }) => code)
    expect(await answer).toBe('database.unavailable')
  })
})
