import { describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'
import { headOf } from './wire.ts'

const me = '/api/v1/auth/me'
const list = '/api/v1/auth/sessions'
const refreshing = '/api/v1/auth/refresh'

type Session = { id: string; current: boolean; user_agent: string; created_at: string; expires_at: string }

export const sessions: Group = (world) =>
  describe('sessions', () => {
    const expectOver = async ({ token, refreshToken }: Person) => {
      expect(refusal(await world().get(me, { token }))).toBe('401 identity.not_signed_in')
      const refreshed = await world().post(refreshing, { refresh_token: refreshToken })
      expect(refusal(refreshed)).toBe('401 identity.refresh_token_invalid')
    }
    const sessionsOf = async ({ token }: Person): Promise<Session[]> =>
      (await world().get(`${list}?limit=100`, { token })).body.items

    test('logging out ends this session at once, and no other', async () => {
      const person = await world().register()
      const other = await world().login(person)
      const { status, text } = await world().post('/api/v1/auth/logout', undefined, { token: person.token })
      expect([status, text]).toEqual([204, ''])
      await expectOver(person)
      expect((await world().get(me, { token: other.token })).status).toBe(200)
    })

    test('logging out needs no body, also with a Content-Type', async () => {
      const said: Record<string, string>[] = [
        { 'content-type': 'application/json' },
        { 'content-type': 'application/json', 'content-length': '0' },
        { 'content-type': 'application/json; charset=utf-8', 'content-length': '0' },
        { 'content-type': 'application/x-www-form-urlencoded', 'content-length': '0' },
        { 'content-type': 'text/plain', 'transfer-encoding': 'chunked' },
        { 'content-type': 'application/json', 'transfer-encoding': 'chunked' },
      ]
      for (const headers of said) {
        const { token } = await world().register()
        const head = headOf('POST', '/api/v1/auth/logout', { authorization: `Bearer ${token}`, ...headers })
        const parts = 'transfer-encoding' in headers ? [head, '0\r\n\r\n'] : [head]
        const answer = await world().raw('POST', '/api/v1/auth/logout', parts)
        expect([headers, answer?.status]).toEqual([headers, 204])
      }
    })

    test('the media type is compared without regard to case, spaces and parameters', async () => {
      const { email, password } = await world().register()
      for (const type of ['Application/JSON', 'application/json ; charset=utf-8', 'application/json;charset="utf-8"']) {
        const body = { email, password }
        const { status } = await world().post('/api/v1/auth/login', body, { headers: { 'content-type': type } })
        expect([type, status]).toEqual([type, 200])
      }
    })

    test('logging out everywhere ends every session at once', async () => {
      const person = await world().register()
      const others = await Promise.all([world().login(person), world().login(person)])
      expect((await world().post('/api/v1/auth/logout-all', undefined, { token: person.token })).status).toBe(204)
      for (const session of [person, ...others]) await expectOver(session)
      await world().login(person)
    })

    test('the list has the active sessions of the caller, newest first, and marks the current one', async () => {
      const person = await world().register()
      const second = await world().login(person)
      const third = await world().login(person)
      await world().post('/api/v1/auth/logout', undefined, { token: second.token })
      await world().register()
      const items = await sessionsOf(third)
      expect(items.map(({ current }) => current)).toEqual([true, false])
      const [newest, oldest] = items as [Session, Session]
      expect(newest.created_at > oldest.created_at).toBe(true)
      const days = (Date.parse(oldest.expires_at) - Date.parse(oldest.created_at)) / 86_400_000
      expect(days).toBe(7)
    })

    test('pages together are the whole list, each with a cursor until the last', async () => {
      const person = await world().register()
      for (let count = 1; count < 5; count += 1) await world().login(person)
      const whole = (await sessionsOf(person)).map(({ id }) => id)
      expect(whole).toHaveLength(5)
      for (const limit of [1, 2, 4, 5]) {
        const ids: string[] = []
        let pages = 0
        let cursor: string | null = ''
        while (cursor !== null) {
          const { body } = await world().get(`${list}?limit=${limit}${cursor && `&cursor=${cursor}`}`, {
            token: person.token,
          })
          ids.push(...body.items.map(({ id }: Session) => id))
          cursor = body.next_cursor
          pages += 1
        }
        expect([ids, pages]).toEqual([whole, Math.ceil(5 / limit)])
      }
    })

    test('a session ends at once, can be ended once, and by its owner only', async () => {
      const [person, stranger] = await Promise.all([world().register(), world().register()])
      const other = await world().login(person)
      const target = (await sessionsOf(person)).find(({ current }) => !current) as Session
      const end = (id: string, { token }: Person) => world().delete(`${list}/${id}`, { token })
      expect(refusal(await end(target.id, stranger))).toBe('404 session.not_found')
      expect(refusal(await end(unknownId, person))).toBe('404 session.not_found')
      expect((await world().get(me, { token: other.token })).status).toBe(200)
      expect((await end(target.id, person)).status).toBe(204)
      await expectOver(other)
      expect(refusal(await end(target.id, person))).toBe('404 session.not_found')
      expect((await world().get(me, { token: person.token })).status).toBe(200)
    })

    test('the address is that of the connection, and an untrusted X-Forwarded-For is ignored', async () => {
      const { email, password, token } = await world().register()
      const claimed = '203.0.113.7'
      const headers = { 'x-forwarded-for': claimed, 'x-real-ip': claimed, forwarded: `for=${claimed}` }
      await world().post('/api/v1/auth/login', { email, password }, { headers })
      const { body } = await world().get(list, { token })
      const [newest, oldest] = body.items.map(({ address }: { address: string }) => address)
      expect(newest).toMatch(/^[0-9a-f.:]+$/)
      expect(newest).toBe(oldest)
    })

    test('the list names browser and platform of each session, and null where the user agent names none', async () => {
      const person = await world().register()
      const agents: [agent: string, browser: string | null, platform: string | null][] = [
        [
          'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36',
          'Chrome',
          'Windows',
        ],
        [
          'Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1',
          'Safari',
          'iOS',
        ],
        ['Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0', 'Firefox', 'Linux'],
        ['-', null, null],
        ['('.repeat(512), null, null],
      ]
      for (const [agent, browser, platform] of agents) {
        const session = await world().post(
          '/api/v1/auth/login',
          { email: person.email, password: person.password },
          { headers: { 'user-agent': agent } },
        )
        const { body } = await world().get(list, { token: session.body.access_token })
        const current = body.items.find((item: Session) => item.current)
        expect([agent, current.device]).toEqual([agent, { browser, platform }])
        expect(Date.parse(current.last_seen_at)).toBeGreaterThanOrEqual(Date.parse(current.created_at))
      }
    })

    test('the user agent is stored and truncated', async () => {
      const person = await world().register()
      const { email, password } = person
      const headers = { 'user-agent': 'x'.repeat(2_000) }
      await world().post('/api/v1/auth/login', { email, password }, { headers })
      expect((await sessionsOf(person))[0]?.user_agent).toBe('x'.repeat(512))
    })

    describe('refreshing', () => {
      test('returns a new pair for the same session, and the previous access token stays valid', async () => {
        const person = await world().register()
        const before = await sessionsOf(person)
        const { status, body } = await world().post(refreshing, { refresh_token: person.refreshToken })
        expect(status).toBe(200)
        expect(body.refresh_token).not.toBe(person.refreshToken)
        expect(body.access_token).not.toBe(person.token)
        expect(body.user).toEqual(person.user)
        for (const token of [person.token, body.access_token])
          expect((await world().get(me, { token })).status).toBe(200)
        const after = await sessionsOf(person)
        expect(after.map(({ id }) => id)).toEqual(before.map(({ id }) => id))
      })

      test('fifty concurrent refreshes with one token get the same response and keep the session', async () => {
        const person = await world().register()
        const ask = () => world().post(refreshing, { refresh_token: person.refreshToken })
        const answers = await Promise.all(Array.from({ length: 50 }, ask))
        expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
        expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
        const { body } = await ask()
        expect(body).toEqual(answers[0]?.body)
        expect((await world().get(me, { token: body.access_token })).status).toBe(200)
        expect(await sessionsOf({ ...person, token: body.access_token })).toHaveLength(1)
        expect((await world().post(refreshing, { refresh_token: body.refresh_token })).status).toBe(200)
      })

      test('a retry after the successor was used still gets its answer within the grace', async () => {
        const { refreshToken } = await world().register()
        const first = await world().post(refreshing, { refresh_token: refreshToken })
        const second = await world().post(refreshing, { refresh_token: first.body.refresh_token })
        const retry = await world().post(refreshing, { refresh_token: refreshToken })
        expect(retry.text).toBe(first.text)
        expect((await world().get(me, { token: second.body.access_token })).status).toBe(200)
      })

      test('a token that was never issued is refused', async () => {
        const person = await world().register()
        const last = person.refreshToken.at(-1) as string
        const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
        const sibling = alphabet[alphabet.indexOf(last) ^ 1] as string
        for (const refresh_token of ['A'.repeat(43), person.refreshToken.slice(0, -1) + sibling]) {
          const answer = await world().post(refreshing, { refresh_token })
          expect(refusal(answer)).toBe('401 identity.refresh_token_invalid')
        }
        const access = await world().post(refreshing, { refresh_token: person.token })
        expect(refusal(access)).toBe('422 request.invalid')
        expect((await world().post(refreshing, { refresh_token: person.refreshToken })).status).toBe(200)
      })
    })
  })
