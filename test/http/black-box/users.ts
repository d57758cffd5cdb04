import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/users'

export const users: Group = (world) =>
  describe('users', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })
    const get = (rest: string, by: Person) => world().get(path + rest, { token: by.token })
    const patch = (id: string, changes: object, by: Person) =>
      world().patch(`${path}/${id}`, changes, { token: by.token })
    const login = ({ email, password }: Person) => world().post('/api/v1/auth/login', { email, password })
    const refresh = ({ refreshToken }: Person) => world().post('/api/v1/auth/refresh', { refresh_token: refreshToken })
    const me = ({ token }: Person) => world().get('/api/v1/auth/me', { token })

    test('are visible to and changed by operators only', async () => {
      for (const answer of [
        get('', person),
        get(`/${person.id}`, person),
        patch(person.id, { role: 'admin', plan: 'enterprise' }, person),
      ]) {
        expect(refusal(await answer)).toBe('403 access.admins_only')
      }
      expect((await me(person)).body).toEqual(person.user)
    })

    test('are listed newest first, by address and status, without credentials', async () => {
      if (operator === undefined) return
      const newest = await world().register()
      const { status, body, text } = await get('?limit=2', operator)
      expect([status, body.items[0]]).toEqual([200, { ...newest.user, limits: null }])
      expect(text).not.toMatch(/password|argon2|hash/)
      const [, second] = body.items
      expect((await get(`?limit=1&cursor=${body.next_cursor}`, operator)).body.items[0].id < second.id).toBe(true)
      const address = encodeURIComponent(person.email.toUpperCase())
      const found = { items: [{ ...person.user, limits: null }], next_cursor: null }
      expect((await get(`?email=${address}`, operator)).body).toEqual(found)
      expect((await get(`?email=${address}&status=active`, operator)).body).toEqual(found)
      expect((await get(`?email=${address}&status=suspended`, operator)).body.items).toEqual([])
      expect((await get(`/${person.id}`, operator)).body).toEqual({ ...person.user, limits: null })
    })

    test('are let in again when an operator forgets their failed sign-ins', async () => {
      if (operator === undefined) return
      const owner = await world().register()
      const { email, password } = owner
      const failures = `/${owner.id}/sign-in-failures`
      expect((await get(failures, operator)).body).toEqual({ items: [] })
      for (let index = 0; index < 11; index += 1)
        await world().post('/api/v1/auth/login', { email, password: 'not the password' })
      const { status, body } = await get(failures, operator)
      expect([status, body.items.length]).toEqual([200, 1 + Number(body.items.length > 1)])
      for (const item of body.items) expect(Date.parse(item.last_failed_at)).toBeGreaterThan(Date.now() - 600_000)
      const clear = (by: Person, path = failures) => world().send('DELETE', `/api/v1/users${path}`, { token: by.token })
      expect(refusal(await clear(person))).toBe('403 access.admins_only')
      expect((await clear(operator)).status).toBe(204)
      expect((await get(failures, operator)).body).toEqual({ items: [] })
      expect((await world().post('/api/v1/auth/login', { email, password })).status).toBe(200)
      for (const answer of [
        get(`/${unknownId}/sign-in-failures`, operator),
        clear(operator, `/${unknownId}/sign-in-failures`),
      ])
        expect(refusal(await answer)).toBe('404 user.not_found')
      for (const answer of [get(failures, person), clear(person)])
        expect(refusal(await answer)).toBe('403 access.admins_only')
    })

    test('are signed out everywhere at once when an operator ends their sessions, and can sign in again', async () => {
      if (operator === undefined) return
      const owner = await world().register()
      const other = await world().login(owner)
      const end = (by: Person, id: string) =>
        world().send('DELETE', `/api/v1/users/${id}/sessions`, { token: by.token })
      expect(refusal(await end(person, owner.id))).toBe('403 access.admins_only')
      expect((await world().get('/api/v1/auth/me', { token: owner.token })).status).toBe(200)
      expect((await end(operator, owner.id)).status).toBe(204)
      for (const { token, refreshToken } of [owner, other]) {
        expect(refusal(await world().get('/api/v1/auth/me', { token }))).toBe('401 identity.not_signed_in')
        const refreshed = await world().post('/api/v1/auth/refresh', { refresh_token: refreshToken })
        expect(refusal(refreshed)).toBe('401 identity.refresh_token_invalid')
      }
      expect((await world().login(owner)).id).toBe(owner.id)
      expect(refusal(await end(operator, unknownId))).toBe('404 user.not_found')
    })

    test('have quotas, which they see themselves and operators see of everybody', async () => {
      await world().post('/api/v1/projects', { name: 'One of a hundred' }, { token: person.token })
      const own = await world().get('/api/v1/auth/me/quotas', { token: person.token })
      expect([own.status, own.body.sessions.used]).toEqual([200, 1])
      expect(own.body.projects).toEqual({ limit: expect.any(Number), used: 1 })
      expect(refusal(await get(`/${person.id}/quotas`, person))).toBe('403 access.admins_only')
      if (operator === undefined) return
      expect((await get(`/${person.id}/quotas`, operator)).body).toEqual(own.body)
      expect(refusal(await get(`/${unknownId}/quotas`, operator))).toBe('404 user.not_found')
      const { body } = await patch(person.id, { plan: 'pro' }, operator)
      expect(body.plan).toBe('pro')
      const { projects } = (await get(`/${person.id}/quotas`, operator)).body
      expect(projects.limit).toBeGreaterThan(own.body.projects.limit)
      await patch(person.id, { plan: 'free' }, operator)
    })

    test('have an e-mail address that is verified when an operator says so', async () => {
      if (operator === undefined) return
      const newcomer = await world().register()
      expect(newcomer.user.email_verified).toBe(false)
      expect((await patch(newcomer.id, { email_verified: true }, operator)).body.email_verified).toBe(true)
      expect((await me(newcomer)).body.email_verified).toBe(true)
    })

    test('lose access at once when suspended, and regain it when reinstated', async () => {
      if (operator === undefined) return
      const suspended = await world().register()
      const other = await world().login(suspended)
      const { status, body } = await patch(suspended.id, { status: 'suspended' }, operator)
      expect([status, body]).toEqual([
        200,
        { ...suspended.user, limits: null, status: 'suspended', updated_at: body.updated_at },
      ])
      const expectOver = async () => {
        for (const session of [suspended, other]) {
          expect(refusal(await me(session))).toBe('401 identity.not_signed_in')
          expect(refusal(await refresh(session))).toBe('401 identity.refresh_token_invalid')
        }
      }
      await expectOver()
      expect(refusal(await login(suspended))).toBe('403 identity.account_suspended')
      expect(refusal(await login({ ...suspended, password: 'not this' }))).toBe('401 identity.credentials_wrong')
      expect((await patch(suspended.id, { status: 'active' }, operator)).status).toBe(200)
      await expectOver()
      expect((await me(await world().login(suspended))).status).toBe(200)
    })

    test('gain and lose operator rights with the next request', async () => {
      if (operator === undefined) return
      const promoted = await world().register()
      expect(refusal(await get('', promoted))).toBe('403 access.admins_only')
      const { body } = await patch(promoted.id, { role: 'admin', plan: 'pro' }, operator)
      expect([body.role, body.plan]).toEqual(['admin', 'pro'])
      expect((await get('', promoted)).status).toBe(200)
      await patch(promoted.id, { role: 'user' }, operator)
      expect(refusal(await get('', promoted))).toBe('403 access.admins_only')
      expect((await me(promoted)).body).toMatchObject({ role: 'user', plan: 'pro' })
    })

    test('cannot suspend or demote themselves as operators, and stay unchanged once deleted', async () => {
      if (operator === undefined) return
      for (const changes of [{ status: 'suspended' }, { role: 'user' }, { plan: 'pro', role: 'user' }]) {
        expect(refusal(await patch(operator.id, changes, operator))).toBe('409 user.own_account')
      }
      expect((await me(operator)).body).toMatchObject({ role: 'admin', plan: 'free', status: 'active' })
      const closed = await world().register()
      await world().send('DELETE', '/api/v1/auth/me', { token: closed.token })
      const { body } = await get(`/${closed.id}`, operator)
      expect(body).toMatchObject({ id: closed.id, status: 'deleted', email: null, display_name: '' })
      expect((await get('?status=deleted&limit=1', operator)).body.items).toEqual([body])
      expect(refusal(await patch(closed.id, { status: 'active' }, operator))).toBe('409 user.deleted')
      expect(refusal(await get(`/${unknownId}`, operator))).toBe('404 user.not_found')
      expect(refusal(await patch(unknownId, { plan: 'pro' }, operator))).toBe('404 user.not_found')
    })
  })
