import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { nameOf, type Route, routesOf, unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/service-keys'

export const serviceKeys: Group = (world) =>
  describe('service keys', () => {
    let operator: Person | undefined
    let person: Person
    let project: string
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
      project = (await world().post('/api/v1/projects', { name: 'Asked' }, { token: person.token })).body.id
    })
    const make = async (by: Person, input: object = {}) => {
      const asked = { name: 'gateway', scopes: ['authorization:check'], ...input }
      const { status, body } = await world().post(path, asked, { token: by.token })
      expect(status).toBe(201)
      return body
    }
    const question = () => ({ user_id: person.id, action: 'read', resource: { type: 'project', id: project } })
    const check = (token: string, body: object = question()) =>
      world().post('/api/v1/authorization/check', body, { token })

    test('are created, listed and revoked by operators only', async () => {
      const sending = { token: person.token }
      const asked = { name: 'mine', scopes: ['authorization:check'] }
      for (const answer of [
        world().post(path, asked, sending),
        world().get(path, sending),
        world().patch(`${path}/${unknownId}`, { limit_per_second: 5 }, sending),
        world().delete(`${path}/${unknownId}`, sending),
        world().patch(`${path}/${unknownId}`, { limit_per_second: 5 }, sending),
      ]) {
        expect(refusal(await answer)).toBe('403 access.admins_only')
      }
    })

    test('get a limit, which is removed by null', async () => {
      if (operator === undefined) return
      const { key: _key, ...made } = await make(operator, { limit_per_second: 1_000 })
      expect(made.limit_per_second).toBe(1_000)
      const { token } = operator
      const changed = await world().patch(`${path}/${made.id}`, { limit_per_second: null }, { token })
      expect([changed.status, changed.body]).toEqual([200, { ...made, limit_per_second: null }])
      const unknown = await world().patch(`${path}/${unknownId}`, { limit_per_second: 5 }, { token })
      expect(refusal(unknown)).toBe('404 service_key.not_found')
    })

    test('are shown once, may check any user, and are invalid once revoked', async () => {
      if (operator === undefined) return
      const { key, ...shown } = await make(operator)
      expect(key).toMatch(/^vsk_/)
      const listed = await world().get(`${path}?limit=1`, { token: operator.token })
      expect(listed.body.items).toEqual([shown])
      expect(listed.text).not.toContain(key)
      const answer = await check(key)
      expect([answer.status, answer.body.allowed]).toEqual([200, true])
      expect(refusal(await check(key, { ...question(), user_id: undefined }))).toBe('422 request.invalid')
      const revoke = (by: Person, id: string) => world().delete(`${path}/${id}`, { token: by.token })
      expect((await revoke(operator, shown.id)).status).toBe(204)
      expect(refusal(await check(key))).toBe('401 identity.not_signed_in')
      expect(refusal(await revoke(operator, unknownId))).toBe('404 service_key.not_found')
    })

    test('have a limit from the next request on once an operator sets one, and none once it is null', async () => {
      if (operator === undefined) return
      const { token } = operator
      const { id, key, ...shown } = await make(operator)
      const setLimit = (of: string, limit_per_second: number | null) =>
        world().patch(`${path}/${of}`, { limit_per_second }, { token })
      for (const limit_per_second of [500, null]) {
        const { status, body } = await setLimit(id, limit_per_second)
        expect([status, body]).toEqual([200, { id, ...shown, limit_per_second, last_used_at: body.last_used_at }])
        expect((await check(key)).status).toBe(200)
      }
      expect(refusal(await setLimit(unknownId, 500))).toBe('404 service_key.not_found')
    })

    test('give access by their scopes, and to no route for access tokens', async () => {
      if (operator === undefined) return
      const [checker, lister] = [await make(operator), await make(operator, { scopes: ['authorization:list'] })]
      const about = 'type=project&action=delete'
      const get = (rest: string, token: string) => world().get(`/api/v1/authorization/${rest}`, { token })
      const lists = [`accessible?${about}&user_id=${person.id}`, `who?${about}&id=${project}`]
      for (const list of lists) {
        expect(refusal(await get(list, checker.key))).toBe('403 service_key.scope_missing')
        const { status, body } = await get(list, lister.key)
        expect([status, body.items.length]).toEqual([200, 1])
      }
      const root = '/api/v1/authorization'
      for (const answer of [
        check(lister.key),
        world().post(`${root}/check/batch`, { checks: [question()] }, { token: lister.key }),
        world().post(`${root}/explain`, question(), { token: lister.key }),
      ]) {
        expect(refusal(await answer)).toBe('403 service_key.scope_missing')
      }
      const explained = await world().post(`${root}/explain`, question(), { token: checker.key })
      expect(explained.body.layers).toHaveLength(10)
      const { key: token } = checker
      for (const closed of ['/api/v1/projects', `/api/v1/projects/${project}`, '/api/v1/auth/me'])
        expect(refusal(await world().get(closed, { token }))).toBe('403 service_key.scope_missing')
      for (const closed of [path, '/api/v1/auth/sessions'])
        expect(refusal(await world().get(closed, { token }))).toBe('403 access.people_only')
      for (const key of [`${checker.key}A`, checker.key.slice(0, -1), `vsk_${'A'.repeat(64)}`, 'vsk_']) {
        expect(refusal(await check(key))).toBe('401 identity.not_signed_in')
      }
    })

    test('with a scope for it act for the user that a request names, with the rights of that user', async () => {
      if (operator === undefined) return
      const { key } = await make(operator, { scopes: ['projects:write', 'users:read'] })
      const other = await world().register()
      const send = (id?: string) => ({ token: key, ...(id !== undefined && { headers: { 'velro-user': id } }) })
      const made = await world().post('/api/v1/projects', { name: 'Onboarding' }, send(person.id))
      expect([made.status, made.body.owner_id]).toEqual([201, person.id])
      const own = `/api/v1/projects/${made.body.id}`
      expect((await world().get(own, { token: person.token })).body).toMatchObject(made.body)
      expect((await world().get('/api/v1/auth/me', send(person.id))).body.id).toBe(person.id)
      expect(refusal(await world().get(own, send(other.id)))).toBe('404 project.not_found')
      expect(refusal(await world().delete(own, send(other.id)))).toBe('404 project.not_found')
      for (const id of [undefined, 'x', person.id.toUpperCase()])
        expect(refusal(await world().get(own, send(id)))).toBe('422 request.invalid')
      expect(refusal(await world().get(own, send(unknownId)))).toBe('403 service_key.user_not_active')
      expect(refusal(await world().get('/api/v1/users', send(person.id)))).toBe('403 access.admins_only')
      expect((await world().get('/api/v1/users', send(operator.id))).status).toBe(200)
      expect(refusal(await world().get('/api/v1/teams', send(person.id)))).toBe('403 service_key.scope_missing')
      const transfer = await world().post(`${own}/transfer`, { owner_id: other.id }, send(person.id))
      expect(refusal(transfer)).toBe('403 access.people_only')
      expect((await world().delete(own, send(person.id))).status).toBe(204)
    })

    test('are refused by every other route, and by name', async () => {
      if (operator === undefined) return
      const scopes = [...new Set(routesOf(world().document).flatMap(({ operation }) => operation['x-scope'] ?? []))]
      expect(scopes).toHaveLength(5)
      const { key } = await make(operator, { scopes })
      const { key: checker } = await make(operator)
      const send = ({ method, template }: Route, token: string) =>
        world().send(method as 'GET', template.replaceAll(/\{\w+\}/g, unknownId), {
          token,
          headers: { 'velro-user': method === 'GET' ? unknownId : '' },
          ...(method !== 'GET' && { body: '{}' }),
        })
      const wrong: string[] = []
      for (const route of routesOf(world().document)) {
        const { security, 'x-scope': scope } = route.operation
        const isForServices = security.some((ways) => 'service_key' in ways)
        if (security.length === 0 || (isForServices && scope === undefined)) continue
        const ofScope = route.method === 'GET' ? '403 service_key.user_not_active' : '422 request.invalid'
        const expected = scope === undefined ? '403 access.people_only' : ofScope
        const lacking = scope === undefined ? expected : '403 service_key.scope_missing'
        const got = [refusal(await send(route, key)), refusal(await send(route, checker))]
        if (got.join() !== [expected, lacking].join()) wrong.push(`${nameOf(route)}: ${got}`)
      }
      expect(wrong).toEqual([])
    })

    test('expire at the given time, which must be a valid date in the future', async () => {
      if (operator === undefined) return
      for (const expires_at of ['2001-01-01T00:00:00Z', '2999-02-30T00:00:00Z', '9999-12-31T23:59:59-01:00']) {
        const { token } = operator
        const refused = await world().post(path, { name: 'n', scopes: ['authorization:check'], expires_at }, { token })
        expect([expires_at, refusal(refused)]).toEqual([expires_at, '422 request.invalid'])
      }
      const { key, expires_at } = await make(operator, { expires_at: new Date(Date.now() + 1_500).toISOString() })
      expect((await check(key)).status).toBe(200)
      await Bun.sleep(Date.parse(expires_at) - Date.now() + 50)
      expect(refusal(await check(key))).toBe('401 service_key.expired')
    })

    test('are refused from outside of their allowed networks, until these are changed', async () => {
      if (operator === undefined) return
      const { token } = operator
      const { key, id } = await make(operator, { allowed_networks: ['192.0.2.0/24'] })
      expect(refusal(await check(key))).toBe('403 service_key.network_refused')
      const freed = await world().patch(`${path}/${id}`, { allowed_networks: null }, { token })
      expect(freed.body.allowed_networks).toBeNull()
      expect((await check(key)).status).toBe(200)
    })
  })
