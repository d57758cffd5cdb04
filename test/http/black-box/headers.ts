import { beforeAll, describe, expect, test } from 'bun:test'
import { newPicture } from '../../harness/pictures.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, missingHeaders, securityHeaders } from './driver.ts'

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
const traceparent = `00-${traceId}-00f067aa0ba902b7-01`

export const headers: Group = (world) =>
  describe('headers', () => {
    let ada: Person
    beforeAll(async () => {
      ada = await world().register()
    })

    /** One answer of each kind, by name. */
    const kinds: Record<string, (sent: Record<string, string>) => Promise<Answer>> = {
      '200': (sent) => world().get('/api/v1/auth/me', { token: ada.token, headers: sent }),
      '201': (sent) => world().post('/api/v1/projects', { name: 'Headers' }, { token: ada.token, headers: sent }),
      '204': (sent) =>
        world()
          .login(ada)
          .then(({ token }) => world().post('/api/v1/auth/logout', undefined, { token, headers: sent })),
      '400': (sent) => world().post('/api/v1/auth/login', '{', { headers: sent }),
      '401': (sent) => world().get('/api/v1/auth/me', { headers: sent }),
      '403': (sent) =>
        world().post(
          '/api/v1/auth/password',
          { current_password: 'not this one', new_password: 'another good passphrase' },
          { token: ada.token, headers: sent },
        ),
      '404 of a route': (sent) => world().get('/nope', { headers: sent }),
      '404 of a resource': (sent) => world().get(`/api/v1/projects/${unknownId}`, { token: ada.token, headers: sent }),
      '405': (sent) => world().put('/health', {}, { headers: sent }) as Promise<Answer>,
      '409': (sent) =>
        world().post('/api/v1/auth/register', { email: ada.email, password: ada.password }, { headers: sent }),
      '413': (sent) => world().post('/api/v1/auth/login', ' '.repeat(1_048_577), { headers: sent }),
      '415': (sent) => world().post('/api/v1/auth/login', 'x', { headers: { ...sent, 'content-type': 'text/plain' } }),
      '422': (sent) => world().post('/api/v1/auth/login', {}, { headers: sent }),
      'a preflight': (sent) => world().send('OPTIONS', '/api/v1/projects', { headers: sent }),
      'a HEAD': (sent) => world().send('HEAD', '/health', { headers: sent }),
      'a probe': (sent) => world().get('/health', { headers: sent }),
      'the key set': (sent) => world().get('/.well-known/jwks.json', { headers: sent }),
      'the document': (sent) => world().get('/docs/json', { headers: sent }),
      'the documentation page': (sent) => world().get('/docs', { headers: sent }),
    }

    test('at least twelve security headers are on every response', () => {
      expect(Object.keys(securityHeaders).length).toBeGreaterThanOrEqual(12)
    })

    for (const [kind, ask] of Object.entries(kinds)) {
      test(`${kind}: all security headers, the caller's trace id, and no CORS for strangers`, async () => {
        const answer = await ask({ traceparent, origin: 'https://stranger.example' })
        if (/^\d/.test(kind)) expect(String(answer.status)).toBe(kind.slice(0, 3))
        expect(missingHeaders(answer.headers)).toEqual([])
        expect(answer.headers.get('x-request-id')).toBe(traceId)
        if (answer.status >= 400) expect(answer.body.request_id).toBe(traceId)
        expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([])
        // nginx names itself in every response.
        expect(answer.headers.has('server')).toBe(world().subject.proxy === 'nginx')
        expect(answer.headers.has('x-powered-by')).toBe(false)
      })

      test(`${kind}: an origin that was configured may read it`, async () => {
        const { sharedOrigin } = world().subject
        if (sharedOrigin === undefined) return
        const answer = await ask({ origin: sharedOrigin })
        expect(answer.headers.get('access-control-allow-origin')).toBe(sharedOrigin)
        expect(answer.headers.get('vary')?.split(', ')).toContain('Origin')
        expect(answer.headers.get('access-control-allow-credentials')).toBe('true')
        expect(answer.headers.get('access-control-expose-headers')).toContain('x-request-id')
        expect(missingHeaders(answer.headers)).toEqual([])
      })
    }

    test('a response that depends on the origin has Vary: Origin for every origin', async () => {
      if (world().subject.sharedOrigin === undefined) return
      expect((await world().get('/health')).headers.get('vary')).toBe('Origin')
      expect((await world().get('/nope')).headers.get('vary')).toBe('Origin')
    })

    test('a preflight names the methods of the path and the usual headers', async () => {
      const { sharedOrigin } = world().subject
      if (sharedOrigin === undefined) return
      const asking = { origin: sharedOrigin, 'access-control-request-method': 'PATCH' }
      const { status, headers, text } = await world().send('OPTIONS', '/api/v1/auth/me', { headers: asking })
      expect([status, text]).toEqual([204, ''])
      expect(headers.get('access-control-allow-methods')?.split(', ')).toEqual(
        expect.arrayContaining(['GET', 'HEAD', 'PATCH', 'DELETE']),
      )
      expect(headers.get('access-control-allow-headers')?.split(', ')).toEqual(
        expect.arrayContaining(['authorization', 'content-type', 'traceparent']),
      )
      expect(Number(headers.get('access-control-max-age'))).toBeGreaterThan(0)
    })

    test('a configured origin may send range and conditional requests and read their response headers', async () => {
      const { sharedOrigin: origin } = world().subject
      if (origin === undefined) return
      const { token } = ada
      const uploaded = await world().send('POST', '/api/v1/media', {
        token,
        headers: { 'content-type': 'image/png' },
        body: (await newPicture()) as Uint8Array<ArrayBuffer>,
      })
      const path = `/api/v1/media/${uploaded.body.id}/content`
      const wanted = ['authorization', 'if-none-match', 'if-range', 'range']
      const preflight = await world().send('OPTIONS', path, {
        headers: {
          origin,
          'access-control-request-method': 'GET',
          'access-control-request-headers': wanted.join(','),
        },
      })
      expect(preflight.headers.get('access-control-allow-headers')?.split(', ')).toEqual(expect.arrayContaining(wanted))
      const part = await world().get(path, { token, headers: { origin, range: 'bytes=0-9' } })
      expect([part.status, part.headers.get('content-range')]).toEqual([206, `bytes 0-9/${uploaded.body.bytes}`])
      const exposed = part.headers.get('access-control-expose-headers')?.split(', ') ?? []
      for (const name of ['etag', 'content-range', 'accept-ranges', 'content-disposition']) {
        expect([name, part.headers.has(name), exposed.includes(name)]).toEqual([name, true, true])
      }
      const tag = part.headers.get('etag') ?? ''
      const unchanged = await world().get(path, { token, headers: { origin, 'if-none-match': tag } })
      expect([unchanged.status, unchanged.headers.get('access-control-allow-origin')]).toEqual([304, origin])
    })

    test('every request has a unique id', async () => {
      const answers = await Promise.all(Array.from({ length: 50 }, () => world().get('/nope')))
      const ids = answers.map(({ headers }) => headers.get('x-request-id'))
      expect(new Set(ids).size).toBe(50)
      expect(answers.map(({ body }) => body.request_id)).toEqual(ids)
    })

    test('an invalid traceparent is ignored', async () => {
      const broken = [
        traceId,
        `00-${traceId}`,
        `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
        `00-${traceId}-${'0'.repeat(16)}-01`,
        `ff-${traceId}-00f067aa0ba902b7-01`,
        `00-${traceId.toUpperCase()}-00f067aa0ba902b7-01`,
        `00-${traceId}-00f067aa0ba902b7-zz`,
        `00-${traceId.slice(1)}-00f067aa0ba902b7-01`,
        `00-${traceId}-00f067aa0ba902b7-01-${'x'.repeat(200)}`,
        '<script>',
      ]
      for (const given of broken) {
        const { headers } = await world().get('/health', { headers: { traceparent: given } })
        expect([given, headers.get('x-request-id')]).not.toEqual([given, traceId])
        expect(headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/)
      }
    })

    test('version 00 of traceparent is exactly its four fields; later versions may have more', async () => {
      const ask = async (given: string) =>
        (await world().get('/health', { headers: { traceparent: given } })).headers.get('x-request-id')
      expect(await ask(`${traceparent}-what`)).not.toBe(traceId)
      expect(await ask(`cc-${traceId}-00f067aa0ba902b7-01-what`)).toBe(traceId)
    })

    test('a problem follows RFC 9457 and does not repeat the input', async () => {
      const answer = await world().get(`/api/v1/projects/${unknownId}?secret=hunter2`, { token: ada.token })
      expect(answer.headers.get('content-type')).toBe('application/problem+json')
      expect(answer.body).toEqual({
        type: 'urn:velro:problem:project.not_found',
        title: 'Not Found',
        status: 404,
        detail: 'The project does not exist or is not visible to you',
        instance: `/api/v1/projects/${unknownId}`,
        code: 'project.not_found',
        request_id: answer.headers.get('x-request-id'),
      })
    })

    test('a refused input names the place of each error and does not repeat the value', async () => {
      const { body, text } = await world().post('/api/v1/auth/register', {
        email: 'hunter2hunter2',
        password: 'short',
        hunter3: 'hunter4',
      })
      expect(body.code).toBe('request.invalid')
      const places = body.errors.map((error: { in: string; pointer: string }) => `${error.in} ${error.pointer}`)
      expect(places).toEqual(expect.arrayContaining(['body /email', 'body /password', 'body /hunter3']))
      expect(text).not.toContain('hunter2')
      expect(text).not.toContain('hunter4')
    })

    test('401 names the scheme; 204 and 200 do not', async () => {
      expect((await world().get('/api/v1/auth/me')).headers.get('www-authenticate')).toBe('Bearer')
      expect((await world().get('/api/v1/auth/me', { token: ada.token })).headers.has('www-authenticate')).toBe(false)
    })
  })
