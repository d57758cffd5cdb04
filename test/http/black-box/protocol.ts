import { beforeAll, describe, expect, test } from 'bun:test'
import { newPicture } from '../../harness/pictures.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'
import { sendRaw, type WireAnswer } from './wire.ts'

const json = 'application/json'

const sameHostTwice = 'localhost\r\nhost: localhost'

/** Hosts that are no authority. The last ones arrive as two headers. */
const invalidHosts = [
  '',
  '[',
  'a/b',
  'a/api/v1/auth/me?',
  'x/.well-known',
  'a?b',
  'a#b',
  'user@a',
  'a b',
  'a, b',
  'a%2fb',
  'a:b',
  'a:99999',
  '\xff',
  'localhost\r\nhost: other',
  sameHostTwice,
]

export const protocol: Group = (world) =>
  describe('the protocol', () => {
    let ada: Person
    beforeAll(async () => {
      ada = await world().register()
    })

    const codeOf = (answer: WireAnswer | undefined) => (/"code":"([^"]+)"/.exec(answer?.body ?? '') ?? [])[1]
    const headerOf = (answer: WireAnswer | undefined, name: string) =>
      answer?.headers.find(([each]) => each === name)?.[1]
    const sendLines = (...lines: string[]) =>
      sendRaw(world().subject.baseUrl, [Buffer.from([...lines, '', ''].join('\r\n'), 'latin1')])

    test('a request whose Host is not a valid authority, or that has two, is 400 on every path', async () => {
      for (const host of invalidHosts) {
        // HAProxy sends two equal headers as one, here and in Content-Length.
        if (host === sameHostTwice && world().subject.proxy === 'HAProxy') continue
        for (const path of ['/health', '/api/v1/auth/me', '/nope', '/d/api/v1/auth/me', '/docs/json']) {
          const answer = await sendLines(`GET ${path} HTTP/1.1`, `host: ${host}`, 'connection: close')
          expect([host, path, answer?.status ?? 400]).toEqual([host, path, 400])
          // Where the runtime refuses it first, its answer has no body.
          if (answer !== undefined && answer.body !== '') {
            if (world().isRefusedByProxy({ status: answer.status, text: answer.body })) continue
            expect([host, codeOf(answer)]).toEqual([host, 'request.host_invalid'])
            expect(headerOf(answer, 'content-type')).toBe('application/problem+json')
          }
        }
      }
    })

    test('a refusal for the Host header is a problem with every security header, also to OPTIONS', async () => {
      for (const method of ['GET', 'OPTIONS']) {
        const answer = await world().raw(method, '/health', [`${method} /health HTTP/1.1\r\nhost: a/b\r\n\r\n`])
        if (answer && world().isRefusedByProxy({ status: answer.status, text: answer.body })) continue
        expect([answer?.status, codeOf(answer), JSON.parse(answer?.body ?? '').instance]).toEqual([
          400,
          'request.host_invalid',
          '/',
        ])
      }
    })

    test('HTTP/1.0 works without Host, on the path that was sent', async () => {
      // nginx passes it on as HTTP/1.1.
      if (world().subject.proxy === 'nginx') return
      const ask = async (path: string) => {
        const answer = await sendLines(`GET ${path} HTTP/1.0`)
        return `${answer?.status} ${codeOf(answer) ?? JSON.stringify(JSON.parse(answer?.body ?? '{}').status)}`
      }
      expect(await ask('/health')).toBe('200 "alive"')
      expect(await ask('/health?host=/api')).toBe('200 "alive"')
      expect(await ask('/api/health')).toBe('404 route.not_found')
      expect(await ask('/a/b/c/health')).toBe('404 route.not_found')
      expect(await ask('/api/v1/auth/me')).toBe('401 identity.not_signed_in')
      const body = '{"email":"a@b.cd","password":"not the right one"}'
      const signIn = await sendRaw(world().subject.baseUrl, [
        `POST /api/v1/auth/login HTTP/1.0\r\ncontent-type: ${json}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      ])
      expect([signIn?.status, codeOf(signIn)]).toEqual([401, 'identity.credentials_wrong'])
    })

    test('a target that is a whole URL is routed by its path', async () => {
      const ask = async (target: string) =>
        (await sendLines(`GET ${target} HTTP/1.1`, 'host: localhost', 'connection: close'))?.status ?? 400
      expect(await ask('http://localhost/health')).toBe(200)
      // HAProxy refuses a target of another host than the one in the header.
      const isRefused = world().subject.proxy === 'HAProxy'
      expect(await ask('http://other.example:81/health')).toBe(isRefused ? 400 : 200)
      expect(await ask('http://localhost/api/v1/auth/me')).toBe(401)
      // Bun drops the scheme and the host of a target; Deno keeps them, and they are refused.
      for (const target of ['http://other?/health', 'https://x/api/health', 'ftp://x/api/health']) {
        expect([target, [400, 404].includes(await ask(target))]).toEqual([target, true])
      }
    })

    test('every answer but a stream of events has its Content-Length', async () => {
      const { token } = ada
      const uploaded = await world().send('POST', '/api/v1/media', {
        token,
        headers: { 'content-type': 'image/png' },
        // Noise: more than 1 MiB.
        body: (await newPicture('png', 800, 800)) as Uint8Array<ArrayBuffer>,
      })
      expect(uploaded.body.bytes).toBeGreaterThan(1_048_577)
      const content = `/api/v1/media/${uploaded.body.id}/content`
      const size = uploaded.body.bytes as number
      const ask = async (method: string, path: string, version: string, ...more: string[]) => {
        const own = ['host: localhost', `authorization: Bearer ${token}`, 'accept-encoding: gzip, br']
        const answer = await sendLines(`${method} ${path} HTTP/${version}`, ...own, ...more)
        const length = headerOf(answer, 'content-length')
        expect([method, path, headerOf(answer, 'transfer-encoding')]).toEqual([method, path, undefined])
        if (method !== 'HEAD') expect([path, length]).toEqual([path, String(answer?.body.length)])
        return [answer?.status, length, headerOf(answer, 'content-range') || undefined]
      }
      for (const version of ['1.0', '1.1']) {
        for (const path of [
          '/health',
          '/ready',
          '/api/v1/auth/me',
          '/nope',
          '/docs/json',
          '/docs',
          '/docs/start.js',
          '/dashboard',
        ]) {
          await ask('GET', path, version)
        }
        expect(await ask('GET', content, version)).toEqual([200, String(size), undefined])
        expect(await ask('HEAD', content, version)).toEqual([200, String(size), undefined])
        expect(await ask('GET', content, version, 'range: bytes=5-')).toEqual([
          206,
          String(size - 5),
          `bytes 5-${size - 1}/${size}`,
        ])
        expect(await ask('GET', content, version, `range: bytes=-1048577`)).toEqual([
          206,
          '1048577',
          `bytes ${size - 1_048_577}-${size - 1}/${size}`,
        ])
        // The condition fails, so the whole file is sent; and RFC 9110 defines ranges for GET only.
        expect(await ask('GET', content, version, 'range: bytes=5-9', 'if-range: "x"')).toEqual([
          200,
          String(size),
          undefined,
        ])
        expect(await ask('HEAD', content, version, 'range: bytes=5-')).toEqual([200, String(size), undefined])
      }
    })

    test('OPTIONS and 405 name the methods of the path, with HEAD, and an unknown path is 404', async () => {
      const cases = {
        '/health': 'GET, HEAD, OPTIONS',
        '/api/v1/auth/me': 'GET, HEAD, PATCH, DELETE, OPTIONS',
        '/api/v1/auth/login': 'POST, OPTIONS',
        [`/api/v1/projects/${unknownId}`]: 'GET, HEAD, PATCH, DELETE, OPTIONS',
        '/api/v1/generations': 'GET, HEAD, POST, OPTIONS',
        '/docs': 'GET, HEAD, OPTIONS',
        '/dashboard': 'GET, HEAD, OPTIONS',
      }
      for (const [path, allowed] of Object.entries(cases)) {
        const options = await world().send('OPTIONS', path)
        expect([path, options.status, options.headers.get('allow')]).toEqual([path, 204, allowed])
        const refused = await world().send('PUT', path)
        expect([path, refusal(refused)]).toEqual([path, '405 route.method_not_allowed'])
        expect([path, refused.headers.get('allow')]).toEqual([path, allowed])
      }
      for (const path of ['/nope', '/api/v1', '/api/v1/projects/a/b']) {
        const origin = world().subject.sharedOrigin ?? 'https://app.example.com'
        const preflight = { origin, 'access-control-request-method': 'GET' }
        for (const headers of [{}, preflight]) {
          const answer = await sendLines(
            `OPTIONS ${path} HTTP/1.1`,
            'host: localhost',
            ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
          )
          expect([path, answer?.status, codeOf(answer)]).toEqual([path, 404, 'route.not_found'])
        }
      }
    })

    test('two Content-Length headers are 400, also when they are equal', async () => {
      const body = '{"email":"a@b.cd","password":"12345678"}'
      for (const second of [body.length, body.length + 1, 0]) {
        if (second === body.length && world().subject.proxy === 'HAProxy') continue
        for (const path of ['/api/v1/auth/login', '/api/v1/media']) {
          const answer = await sendRaw(world().subject.baseUrl, [
            `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: ${json}\r\nauthorization: Bearer ${ada.token}\r\n` +
              `content-length: ${body.length}\r\ncontent-length: ${second}\r\n\r\n`,
            body,
          ])
          expect([path, second, answer?.status ?? 400]).toEqual([path, second, 400])
        }
      }
    })

    test('a body with a Content-Encoding other than identity is 415 with Accept-Encoding', async () => {
      const login = (encoding: string, body: Uint8Array<ArrayBuffer> | string) =>
        world().send('POST', '/api/v1/auth/login', {
          headers: { 'content-type': json, 'content-encoding': encoding },
          body,
        })
      const text = '{"email":"a@b.cd","password":"12345678"}'
      for (const encoding of ['gzip', 'br', 'deflate', 'GZIP', 'x', 'identity, gzip']) {
        for (const body of [text, Bun.gzipSync(text)]) {
          const answer = await login(encoding, body)
          expect([encoding, refusal(answer)]).toEqual([encoding, '415 request.encoding_unsupported'])
          expect(answer.headers.get('accept-encoding')).toBe('identity')
        }
      }
      expect(refusal(await login('identity', text))).toBe('401 identity.credentials_wrong')
      const picture = await world().send('POST', '/api/v1/media', {
        token: ada.token,
        headers: { 'content-type': 'image/png', 'content-encoding': 'gzip' },
        body: Bun.gzipSync(new Uint8Array(100)),
      })
      expect(refusal(picture)).toBe('415 request.encoding_unsupported')
    })

    test('If-Match is evaluated before If-None-Match, by strong comparison', async () => {
      const { token } = ada
      const { body } = await world().send('POST', '/api/v1/media', {
        token,
        headers: { 'content-type': 'image/png' },
        body: (await newPicture()) as Uint8Array<ArrayBuffer>,
      })
      const path = `/api/v1/media/${body.id}/content`
      const tag = (await world().get(path, { token })).headers.get('etag') ?? ''
      const get = (headers: Record<string, string>) => world().get(path, { token, headers })
      for (const matching of [tag, '*', `"x", ${tag}`]) expect((await get({ 'if-match': matching })).status).toBe(200)
      expect((await get({ 'if-match': tag, 'if-none-match': tag })).status).toBe(304)
      for (const other of ['"x"', `W/${tag}`]) {
        expect(refusal(await get({ 'if-match': other }))).toBe('412 request.precondition_failed')
        expect(refusal(await get({ 'if-match': other, 'if-none-match': tag }))).toBe('412 request.precondition_failed')
        expect((await world().send('HEAD', path, { token, headers: { 'if-match': other } })).status).toBe(412)
      }
      // A condition shows nothing to a caller who may not download.
      expect(refusal(await world().get(path, { headers: { 'if-match': '"x"' } }))).toBe('401 identity.not_signed_in')
    })

    test('several spaces may follow Bearer, in any case of letters', async () => {
      for (const scheme of ['Bearer', 'bearer', 'BEARER']) {
        for (const spaces of [' ', '  ', '     ']) {
          const authorization = `${scheme}${spaces}${ada.token}`
          const { status } = await world().get('/api/v1/auth/me', { headers: { authorization } })
          expect([scheme, spaces, status]).toEqual([scheme, spaces, 200])
        }
      }
    })

    test('401 and 403 say by WWW-Authenticate whether the token is missing, invalid or too weak', async () => {
      const ask = async (path: string, authorization?: string) => {
        const answer = await world().get(path, authorization === undefined ? {} : { headers: { authorization } })
        return [answer.status, answer.headers.get('www-authenticate')]
      }
      const ended = await world().login(ada)
      await world().post('/api/v1/auth/logout', undefined, { token: ended.token })
      expect(await ask('/api/v1/auth/me')).toEqual([401, 'Bearer'])
      expect(await ask('/api/v1/auth/me', 'Basic YTpi')).toEqual([401, 'Bearer'])
      for (const token of ['x', 'a.b.c', `vsk_${'a'.repeat(43)}`, `${ada.token}x`, ended.token]) {
        expect(await ask('/api/v1/auth/me', `Bearer ${token}`)).toEqual([401, 'Bearer error="invalid_token"'])
      }
      expect(await ask('/api/v1/users', `Bearer ${ada.token}`)).toEqual([403, 'Bearer error="insufficient_scope"'])
      const missing = await world().get(`/api/v1/projects/${unknownId}`, { token: ada.token })
      expect([missing.status, missing.headers.get('www-authenticate')]).toEqual([404, null])
      const wrong = await world().post('/api/v1/auth/login', { email: ada.email, password: 'not this one' })
      expect([wrong.status, wrong.headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
    })

    test('a preflight of a configured origin may send the headers it asks for', async () => {
      const { sharedOrigin: origin } = world().subject
      if (origin === undefined) return
      const preflight = (requested: string, from = origin) =>
        world().send('OPTIONS', '/api/v1/auth/me', {
          headers: {
            origin: from,
            'access-control-request-method': 'PATCH',
            'access-control-request-headers': requested,
          },
        })
      const wanted = 'authorization,Baggage, sentry-trace,x-request-id,if-match'
      const { status, headers } = await preflight(wanted)
      expect([status, headers.get('access-control-allow-origin')]).toEqual([204, origin])
      expect(headers.get('access-control-allow-headers')).toBe(
        'authorization, baggage, sentry-trace, x-request-id, if-match',
      )
      expect(headers.get('access-control-allow-methods')).toBe('GET, HEAD, PATCH, DELETE, OPTIONS')
      for (const odd of ['a b', 'a,,b', '<script>', `x-${'a'.repeat(3_000)}`, 'a;b']) {
        const allowed = (await preflight(odd)).headers.get('access-control-allow-headers')
        expect([odd, allowed?.startsWith('authorization, content-type')]).toEqual([odd, true])
      }
      const stranger = await preflight(wanted, 'https://stranger.example')
      expect([...stranger.headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([])
    })

    test('configured apps, extensions and subdomains may read answers', async () => {
      if (world().subject.sharedOrigin === undefined) return
      const allowed = async (origin: string) =>
        (await world().get('/health', { headers: { origin } })).headers.get('access-control-allow-origin')
      for (const origin of ['capacitor://localhost', 'https://pr-1.example.app', 'https://a.b.example.app']) {
        expect(await allowed(origin)).toBe(origin)
      }
      for (const origin of ['https://example.app', 'http://pr-1.example.app', 'tauri://localhost', 'null']) {
        expect([origin, await allowed(origin)]).toEqual([origin, null])
      }
    })

    test('a body over the limit of the runtime is refused with a problem', async () => {
      for (const [path, expected] of [
        ['/api/v1/auth/login', 413],
        ['/api/v1/media', 415],
        ['/nope', 404],
      ] as const) {
        const answer = await sendLines(
          `POST ${path} HTTP/1.1`,
          'host: localhost',
          'content-type: application/json',
          `authorization: Bearer ${ada.token}`,
          `content-length: ${2 ** 40}`,
          'expect: 100-continue',
        )
        if (answer && world().isRefusedByProxy({ status: answer.status, text: answer.body })) continue
        expect([path, headerOf(answer, 'content-type')]).toEqual([path, 'application/problem+json'])
        expect([path, answer?.status]).toEqual([path, expected])
      }
    })

    test('a start with a DATABASE_URL and without PUBLIC_URL asks for it in the log', () => {
      const output = world().subject.output?.()
      if (output === undefined) return
      expect(output.match(/"event":"config.public_url_missing"/g)).toHaveLength(1)
    })

    test('AuthZEN repeats an X-Request-ID of up to 128 visible characters only', async () => {
      const ask = async (given: string) => {
        const answer = await sendLines(
          'POST /access/v1/evaluation HTTP/1.1',
          'host: localhost',
          `x-request-id: ${given}`,
        )
        return headerOf(answer, 'x-request-id')
      }
      for (const given of ['x', 'a'.repeat(128), 'trace:1/2;3']) expect(await ask(given)).toBe(given)
      for (const given of ['a'.repeat(129), 'a b', 'é']) expect(await ask(given)).toMatch(/^[0-9a-f]{32}$/)
    })
  })
