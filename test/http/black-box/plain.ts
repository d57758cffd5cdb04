import { describe, expect, test } from 'bun:test'
import { type Group, refusal } from './driver.ts'
import { sendRaw } from './wire.ts'

export const plain: Group = (world) =>
  describe('plain routes', () => {
    test('/health answers alive and /ready answers ready', async () => {
      const [health, ready] = await Promise.all([world().get('/health'), world().get('/ready')])
      expect([health.status, health.body]).toEqual([200, { status: 'alive' }])
      expect([ready.status, ready.body]).toEqual([200, { status: 'ready', reasons: [] }])
    })

    test('the key set has public Ed25519 keys only, and may be cached', async () => {
      const { status, headers, body } = await world().get('/.well-known/jwks.json')
      expect(status).toBe(200)
      expect(headers.get('cache-control')).toBe('public, max-age=300')
      expect(body.keys.length).toBeGreaterThan(0)
      for (const key of body.keys) {
        expect(Object.keys(key).sort()).toEqual(['alg', 'crv', 'kid', 'kty', 'use', 'x'])
        expect(key).toMatchObject({ kty: 'OKP', crv: 'Ed25519', alg: 'EdDSA', use: 'sig' })
      }
    })

    for (const [name, path, least] of [
      ['the documentation page', '/docs', 1],
      ['the dashboard', '/dashboard', 2],
    ] as const) {
      test(`${name} loads every file from this server`, async () => {
        const page = await world().get(path)
        expect(page.status).toBe(200)
        expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
        const sources = [...page.text.matchAll(/(?:src|href)="([^"#]+)"/g)]
          .map(([, source]) => source as string)
          .filter((source) => !source.startsWith('data:'))
        expect(sources.length).toBeGreaterThan(least)
        for (const source of sources) {
          expect(source).toStartWith(`${path}/`)
          const { status, headers, text } = await world().get(source)
          expect([source, status]).toEqual([source, 200])
          expect(headers.get('content-type')).toMatch(source.endsWith('.css') ? /^text\/css/ : /^text\/javascript/)
          expect(text.length).toBeGreaterThan(50)
          for (const [, imported = ''] of text.matchAll(/^import .* from '([^']+)'/gm)) {
            const other = await world().get(new URL(imported, `http://host${source}`).pathname)
            expect([imported, other.status]).toEqual([imported, 200])
          }
        }
      })
    }

    test('an unknown path is 404 for every method', async () => {
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const) {
        for (const path of [
          '/nope',
          '/api/v1',
          '/api/v1/projects/a/b',
          '/API/V1/PROJECTS',
          '/%00',
          '/%ZZ',
          '/%ED%A0%80',
        ]) {
          const answer = await world().send(method, path)
          if (path.includes('%') && world().isRefusedByProxy(answer)) continue
          expect([path, refusal(answer)]).toEqual([path, '404 route.not_found'])
        }
      }
    })

    test('the path is parsed correctly behind a short host name', async () => {
      const ask = async (host: string, path: string) => {
        const answer = await sendRaw(world().subject.baseUrl, [`GET ${path} HTTP/1.1\r\nhost: ${host}\r\n\r\n`])
        return [host, path, answer?.status]
      }
      for (const host of ['x', 'api', 'x:1', 'velro', '[::1]:3000', 'a.very.long.name.of.a.host.example.com']) {
        expect(await ask(host, '/health')).toEqual([host, '/health', 200])
        expect(await ask(host, '/api/health')).toEqual([host, '/api/health', 404])
        expect(await ask(host, '/.well-known/jwks.json')).toEqual([host, '/.well-known/jwks.json', 200])
      }
    })

    test('HEAD answers as GET does, without the body', async () => {
      const [head, get] = [await world().send('HEAD', '/health'), await world().get('/health')]
      expect([head.status, head.text]).toEqual([200, ''])
      expect(head.headers.get('content-type')).toBe(get.headers.get('content-type'))
      expect((await world().send('HEAD', '/api/v1/auth/me')).status).toBe(401)
    })
  })
