import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { nameOf, neededQuery, pathOf, type Route, routesOf } from './document.ts'
import { type Answer, type Group, refusal } from './driver.ts'

const names = ['__Host-velro_access', '__Host-velro_refresh', '__Host-velro_device'] as const
const attributes = (seconds: number) => `Path=/; Max-Age=${seconds}; HttpOnly; Secure; SameSite=Lax`
const week = 7 * 86_400

/** What a browser would send, after it stored the cookies of an answer. */
const cookieOf = ({ headers }: Answer): string =>
  headers
    .getSetCookie()
    .map((cookie) => cookie.split(';', 1)[0] ?? '')
    .join('; ')
const valueIn = (cookie: string, name: string) => new RegExp(`${name}=([^;]*)`).exec(cookie)?.[1] ?? ''

export const cookies: Group = (world) =>
  describe('a session in cookies', () => {
    let ada: Person
    let cookie: string
    beforeAll(async () => {
      ada = await world().register()
      cookie = cookieOf(await signIn())
    })

    const own = () => new URL(world().subject.baseUrl).origin
    const login = (headers: Record<string, string>, more: Record<string, unknown> = { cookies: true }) =>
      world().post('/api/v1/auth/login', { email: ada.email, password: ada.password, ...more }, { headers })
    const signIn = (headers: Record<string, string> = {}) => login({ origin: own(), ...headers })
    const refresh = (headers: Record<string, string>, body: unknown = { cookies: true }) =>
      world().post('/api/v1/auth/refresh', body, { headers })
    const me = (headers: Record<string, string>) => world().get('/api/v1/auth/me', { headers })
    const rename = (headers: Record<string, string>) =>
      world().patch('/api/v1/auth/me', { display_name: 'Ada' }, { headers })

    test('is opened by a sign-in that asks for it, whose answer has no token', async () => {
      const { status, headers, body } = await signIn()
      expect([status, Object.keys(body)]).toEqual([200, ['expires_in', 'user']])
      const set = headers.getSetCookie()
      expect(set.map((each) => each.slice(0, each.indexOf('=')))).toEqual([...names])
      expect(set.map((each) => each.slice(each.indexOf(';') + 2))).toEqual([
        attributes(week),
        attributes(week),
        attributes(180 * 86_400),
      ])
      const registered = await world().post(
        '/api/v1/auth/register',
        { email: `c${Date.now()}@example.com`, password: 'seven green bottles hanging', cookies: true },
        { headers: { origin: own() } },
      )
      expect([registered.status, Object.keys(registered.body)]).toEqual([201, ['expires_in', 'user']])
      expect(registered.headers.getSetCookie()).toHaveLength(3)
      expect((await login({}, {})).headers.getSetCookie()).toEqual([])
    })

    test('is signed in by its access token', async () => {
      const answer = await me({ cookie })
      expect([answer.status, answer.body.id]).toEqual([200, ada.id])
      expect((await me({ cookie: `theme=dark; ${cookie}; x=1` })).status).toBe(200)
      expect(answer.headers.getSetCookie()).toEqual([])
    })

    /** By what a browser says of the page; whether it may change anything, and whether it may read. */
    const pages: [page: string, headers: () => Record<string, string>, changes: boolean, reads: boolean][] = [
      ['of this service', () => ({ origin: own(), 'sec-fetch-site': 'same-origin' }), true, true],
      ['of this service, by an older browser', () => ({ origin: own() }), true, true],
      ['of this service, without an Origin', () => ({ 'sec-fetch-site': 'same-origin' }), true, true],
      ['that is not named at all', () => ({}), false, true],
      ['of another origin', () => ({ origin: 'https://evil.example' }), false, false],
      ['of another site', () => ({ origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }), false, false],
      ['of another site, without an Origin', () => ({ 'sec-fetch-site': 'cross-site' }), false, false],
      ['of a sibling host', () => ({ 'sec-fetch-site': 'same-site' }), false, false],
      ['of no origin', () => ({ origin: 'null', 'sec-fetch-site': 'cross-site' }), false, false],
      [
        'of no origin that claims to be ours',
        () => ({ origin: 'null', 'sec-fetch-site': 'same-origin' }),
        false,
        false,
      ],
      [
        'of this service that says it is of another site',
        () => ({ origin: own(), 'sec-fetch-site': 'cross-site' }),
        false,
        false,
      ],
      ['of an origin that begins like ours', () => ({ origin: `${own()}.evil.example` }), false, false],
      ['of our host on another port', () => ({ origin: `${own().replace(/:\d+$/, '')}:1` }), false, false],
      [
        'that a person opened by its address',
        () => ({ 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate' }),
        false,
        true,
      ],
      [
        'to which a link of another site leads',
        () => ({ 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }),
        false,
        true,
      ],
    ]

    test.each(pages)('of a page %s changes and reads as the origin rule says', async (_, headersOf, changes, reads) => {
      const headers = headersOf()
      const changed = changes ? '200 {' : '403 request.origin_refused'
      expect(refusal(await rename({ cookie, ...headers }))).toStartWith(changed)
      expect((await me({ cookie, ...headers })).status).toBe(reads ? 200 : 401)
      // Signing in and refreshing are changes.
      expect((await login(headers).then(refusal)).slice(0, 5)).toBe(changed.slice(0, 5))
      if (!changes) expect(refusal(await refresh({ cookie, ...headers }))).toBe('403 request.origin_refused')
    })

    test('may be used by an origin that is named in the configuration, and by no other of its patterns', async () => {
      const { sharedOrigin: origin } = world().subject
      if (origin === undefined) return
      const other = { cookie, origin, 'sec-fetch-site': 'cross-site' }
      const read = await me(other)
      expect([read.status, (await rename(other)).status]).toEqual([200, 200])
      expect(read.headers.get('access-control-allow-credentials')).toBe('true')
      expect(read.headers.get('access-control-allow-origin')).toBe(origin)
      const preflight = await world().send('OPTIONS', '/api/v1/auth/me', {
        headers: { origin, 'access-control-request-method': 'PATCH', 'access-control-request-headers': 'x-mine' },
      })
      expect(preflight.headers.get('access-control-allow-credentials')).toBe('true')
      expect(preflight.headers.get('access-control-allow-headers')).toBe('x-mine')
      const wildcard = { cookie, origin: 'https://a.example.app' }
      const unnamed = await me(wildcard)
      expect([unnamed.status, refusal(await rename(wildcard))]).toEqual([401, '403 request.origin_refused'])
      expect(unnamed.headers.get('access-control-allow-origin')).toBe('https://a.example.app')
      expect(unnamed.headers.get('access-control-allow-credentials')).toBeNull()
    })

    test('does not count where Authorization is sent, whatever that is', async () => {
      for (const authorization of ['Bearer x', 'Bearer', 'Basic YTpi', 'x', `Bearer ${'x'.repeat(43)}`]) {
        const answer = await me({ cookie, authorization })
        expect([authorization, refusal(answer)]).toEqual([authorization, '401 identity.not_signed_in'])
      }
      const { body } = await refresh({ cookie, origin: own(), authorization: 'Bearer x' })
      expect(body.code).toBe('identity.refresh_token_invalid')
    })

    test('counts on no route of services, and on every other route that needs a person', async () => {
      const wrong: string[] = []
      const takesCookie = ({ operation }: Route) => operation.security.some((scheme) => 'cookie' in scheme)
      for (const route of routesOf(world().document)) {
        const { method, template, operation } = route
        if (operation.security.length === 0) continue
        const isBearerOnly =
          template.startsWith('/access/') || /\/(?:performance\/[a-z-]+|security\/breakers|metrics)$/.test(template)
        if (takesCookie(route) === isBearerOnly) wrong.push(`${nameOf(route)}: documented otherwise`)
        const codes = JSON.stringify(operation.responses['403'] ?? {})
        const changes = method !== 'GET'
        if (codes.includes('request.origin_refused') !== (changes && takesCookie(route)))
          wrong.push(`${nameOf(route)}: request.origin_refused is documented otherwise`)
        const query = neededQuery(world().document, route)
        const target = pathOf(route) + (query.length > 0 ? `?${query.join('&')}` : '')
        const answer = await world().send(method as 'POST', target, {
          headers: { cookie, origin: 'https://evil.example' },
        })
        const expected = changes && !isBearerOnly ? '403 request.origin_refused' : '401 identity.not_signed_in'
        if (refusal(answer) !== expected) wrong.push(`${nameOf(route)}: ${refusal(answer)}, expected ${expected}`)
        if (!isBearerOnly) continue
        const honest = await world().send(method as 'POST', target, { headers: { cookie, origin: own() } })
        if (refusal(honest) !== '401 identity.not_signed_in' || honest.body.credential !== 'missing')
          wrong.push(`${nameOf(route)} by cookie: ${refusal(honest)} ${honest.body.credential}`)
      }
      expect(wrong).toEqual([])
    })

    test('is refused where its cookie is given twice, changed, or no token', async () => {
      const [name] = names
      const token = valueIn(cookie, name)
      const broken = [
        `${name}=${token}; ${name}=${token}`,
        `${name}=x; ${name}=${token}`,
        `${name}=${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`,
        `${name}=${valueIn(cookie, names[1])}`,
        `${name}=vsk_${'A'.repeat(64)}`,
        `${name}=Bearer ${token}`,
        `${name}="${token}"`,
        `${name}=`,
      ]
      for (const sent of broken) {
        const answer = await me({ cookie: sent })
        expect([sent, refusal(answer), answer.body.credential]).toEqual([sent, '401 identity.not_signed_in', 'invalid'])
      }
      for (const sent of [`velro_access=${token}`, `x=1,${name}=${token}`, `${name.toLowerCase()}=${token}`, name]) {
        const answer = await me({ cookie: sent })
        expect([sent, refusal(answer), answer.body.credential]).toEqual([sent, '401 identity.not_signed_in', 'missing'])
      }
    })

    test('is refreshed by its cookie, which the answer replaces', async () => {
      const before = cookieOf(await signIn())
      const { status, headers, body } = await refresh({ cookie: before, origin: own() })
      expect([status, Object.keys(body)]).toEqual([200, ['expires_in', 'user']])
      const set = headers.getSetCookie()
      expect(set.map((each) => each.slice(each.indexOf(';') + 2))).toEqual([attributes(week), attributes(week)])
      const after = set.map((each) => each.split(';', 1)[0]).join('; ')
      expect(valueIn(after, names[1])).not.toBe(valueIn(before, names[1]))
      expect((await me({ cookie: after })).status).toBe(200)
      const refresh_token = valueIn(after, names[1])
      for (const given of [{}, { refresh_token, cookies: true }, { cookies: false }]) {
        expect(refusal(await refresh({ cookie: after, origin: own() }, given))).toBe('422 request.invalid')
      }
      // A client that asks for no cookies is answered with tokens, and needs no origin.
      const asTokens = await refresh({}, { refresh_token })
      expect([asTokens.status, asTokens.headers.getSetCookie(), typeof asTokens.body.access_token]).toEqual([
        200,
        [],
        'string',
      ])
    })

    test('that cannot be refreshed any more is deleted in the browser', async () => {
      const none = await refresh({ origin: own() })
      expect([refusal(none), none.headers.getSetCookie().length]).toEqual(['401 identity.refresh_token_invalid', 2])
      const unknown = await refresh({ cookie: `${names[1]}=${'A'.repeat(43)}`, origin: own() })
      expect(refusal(unknown)).toBe('401 identity.refresh_token_invalid')
      expect(unknown.headers.getSetCookie()).toEqual(names.slice(0, 2).map((name) => `${name}=; ${attributes(0)}`))
    })

    test('is deleted in the browser when it ends: by signing out, by ending it, and by closing the account', async () => {
      const gone = names.slice(0, 2).map((name) => `${name}=; ${attributes(0)}`)
      const origin = own()
      for (const route of ['/api/v1/auth/logout', '/api/v1/auth/logout-all']) {
        const sent = { cookie: cookieOf(await signIn()), origin }
        const answer = await world().post(route, undefined, { headers: sent })
        expect([answer.status, answer.headers.getSetCookie()]).toEqual([204, gone])
        const later = await me(sent)
        expect([refusal(later), later.body.credential]).toEqual(['401 identity.not_signed_in', 'invalid'])
      }
      cookie = cookieOf(await signIn())
      const other = cookieOf(await signIn())
      const list = await world().get('/api/v1/auth/sessions', { headers: { cookie: other } })
      const idOf = (current: boolean) =>
        list.body.items.find((session: { current: boolean }) => session.current === current)?.id
      const end = (id: string) => world().delete(`/api/v1/auth/sessions/${id}`, { headers: { cookie: other, origin } })
      const [first, second] = [await end(idOf(false)), await end(idOf(true))]
      expect([first.status, first.headers.getSetCookie()]).toEqual([204, []])
      expect([second.status, second.headers.getSetCookie()]).toEqual([204, gone])
      cookie = cookieOf(await signIn())
    })

    test('goes on in new cookies after a change of the password, whose answer has no token', async () => {
      const cleo = await world().register()
      const answer = await world().post(
        '/api/v1/auth/login',
        { email: cleo.email, password: cleo.password, cookies: true },
        { headers: { origin: own() } },
      )
      const sent = { cookie: cookieOf(answer), origin: own() }
      const input = { current_password: cleo.password, new_password: 'eight brown bottles standing' }
      const changed = await world().post('/api/v1/auth/password', input, { headers: sent })
      expect([changed.status, Object.keys(changed.body)]).toEqual([200, ['expires_in', 'user']])
      expect((await me(sent)).status).toBe(401)
      expect((await me({ cookie: cookieOf(changed) })).status).toBe(200)
    })

    test('ends when its browser signs in again', async () => {
      const before = cookieOf(await signIn())
      const after = cookieOf(await signIn({ cookie: before }))
      expect([(await me({ cookie: before })).status, (await me({ cookie: after })).status]).toEqual([401, 200])
      const known = await world().get('/api/v1/auth/sessions', { headers: { cookie: after } })
      expect(known.body.items.length).toBeGreaterThan(0)
    })

    test('a refusal tells a client that sent no credential from one whose credential is not valid', async () => {
      const { token } = ada
      const credentialOf = async (headers: Record<string, string>) => {
        const { body, headers: received } = await me(headers)
        return [body.credential, received.get('www-authenticate')]
      }
      expect(await credentialOf({})).toEqual(['missing', 'Bearer'])
      expect(await credentialOf({ authorization: 'Basic YTpi' })).toEqual(['missing', 'Bearer'])
      const invalid = ['invalid', 'Bearer error="invalid_token"']
      expect(await credentialOf({ authorization: `Bearer ${token}x` })).toEqual(invalid)
      expect(await credentialOf({ authorization: `Bearer vsk_${'A'.repeat(64)}` })).toEqual(invalid)
      expect(await credentialOf({ cookie: `${names[0]}=${token}x` })).toEqual(invalid)
    })
  })
