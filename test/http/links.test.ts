import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import type { Person } from '../harness.ts'
import { type LinksWorld, openOn, type Picture, refused, startLinks } from './links-world.ts'

let world: LinksWorld
let ada: Person
let bob: Person
let picture: Picture
beforeAll(async () => {
  world = await startLinks()
  ada = await world.person()
  bob = await world.person()
  picture = await world.picture(ada)
}, 60_000)
afterAll(() => world.close())

describe('a signed link', () => {
  test('opens its media without an access token and regardless of any', async () => {
    const link = await world.sign(bob, picture)
    expect(await openOn(world.here, link)).toBe('200')
    expect(await openOn(world.there, link)).toBe('200')
    for (const authorization of ['Bearer nonsense', `Bearer ${ada.token}`]) {
      expect(await openOn(world.there, link, { headers: { authorization } })).toBe('200')
      expect(await openOn(world.there, `${link}x`, { headers: { authorization } })).toBe(refused)
    }
  })

  test('opens only the variant it was created for', async () => {
    const tagOf = async (target: string, headers: Record<string, string> = {}) =>
      (await fetch(world.there.baseUrl + target, { headers })).headers.get('etag')
    for (const variant of ['original', '256', '512', '1024']) {
      const own = await tagOf(`/api/v1${picture.path}/content?variant=${variant}`, {
        authorization: `Bearer ${ada.token}`,
      })
      const link = await world.sign(bob, picture, { variant })
      expect([variant, await tagOf(link)]).toEqual([variant, own])
      for (const other of ['original', variant]) {
        expect(await openOn(world.there, `${link}&variant=${other}`)).toBe('422 request.invalid')
      }
    }
  })

  test('allows GET and HEAD, or only HEAD', async () => {
    const [get, head] = [await world.sign(bob, picture), await world.sign(bob, picture, { method: 'HEAD' })]
    expect(await openOn(world.there, get, { method: 'HEAD' })).toBe('200')
    expect(await openOn(world.there, head, { method: 'HEAD' })).toBe('200')
    expect(await openOn(world.there, head)).toBe(refused)
    expect(await openOn(world.there, head, { method: 'DELETE' })).not.toBe('200')
  })

  test('is created by a caller with download, for the requested time', async () => {
    const hidden = await world.picture(ada, 'private')
    expect((await world.as(bob).post(`${hidden.path}/links`, {})).body.code).toBe('media.not_found')
    const unknown = await world.as(bob).post(`/media/${newId()}/links`, {})
    expect(unknown.body.code).toBe('media.not_found')
    const { expires_at, variant, method } = (await world.as(bob).post(`${picture.path}/links`, { expires_in: 60 })).body
    expect({ variant, method }).toEqual({ variant: 'original', method: 'GET' })
    expect(Math.abs(Date.parse(expires_at) - Date.now() - 60_000)).toBeLessThan(10_000)
  })

  test('expires at its time despite cached facts', async () => {
    const clock = manualClock(Date.now())
    const app = await world.start({ clock })
    const link = await world.sign(bob, picture, { expires_in: 600 })
    for (const [afterS, expected] of [
      [0, '200'],
      [590, '200'],
      [11, refused],
      [86_400, refused],
    ] as const) {
      clock.advance(afterS * 1_000)
      expect([afterS, await openOn(app, link)]).toEqual([afterS, expected])
    }
  })

  test('starts with the configured public URL', async () => {
    const app = await world.start({ config: { publicUrl: 'https://media.example.com' } })
    for (const kind of ['links', 'share-links']) {
      const response = await fetch(`${app.baseUrl}/api/v1${picture.path}/${kind}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${ada.token}`, 'content-type': 'application/json' },
        body: '{}',
      })
      const { url } = (await response.json()) as { url: string }
      expect(url).toStartWith(`https://media.example.com/api/v1${picture.path}/content?`)
      expect(await openOn(world.there, url.slice('https://media.example.com'.length))).toBe('200')
    }
  })

  test('costs no statement with warm caches, nor when it is invalid', async () => {
    const link = await world.sign(bob, picture)
    expect(await openOn(world.there, link)).toBe('200')
    await world.there.leased()
    world.statements.length = 0
    expect(await openOn(world.there, link)).toBe('200')
    expect(world.statements).toEqual([])
    for (let at = 0; at < 100; at += 1) expect(await openOn(world.there, `${link.slice(0, -at - 1)}`)).toBe(refused)
    expect(world.statements).toEqual([])
  })

  test('gets the same refusal for every reason', async () => {
    const link = await world.sign(bob, picture)
    const other = await world.picture(ada)
    const own = await world.login(bob)
    const [ended, private_] = [await world.sign(own, picture), await world.sign(bob, other)]
    await world.expectStatus(world.as(own).post('/auth/logout'), 204)
    await world.expectStatus(world.as(ada).patch(`/projects/${other.project}`, { visibility: 'private' }), 200)
    const withoutToken = link.replace(/=.*/, '=')
    const refusedLinks = {
      tampered: link.replace(/.$/, '-'),
      'cut short': link.slice(0, -10),
      'for another media': private_.replace(other.media, picture.media),
      'for an unknown media': link.replace(picture.media, newId()),
      'of an ended session': ended,
      'of a user who lost access': private_,
      'for HEAD': await world.sign(bob, picture, { method: 'HEAD' }),
      empty: withoutToken,
      nonsense: `${withoutToken}nonsense`,
      'signature used as a share secret': link.replace('signature', 'share'),
    }
    const seen = new Map<string, string>()
    for (const [name, target] of Object.entries(refusedLinks)) {
      const response = await fetch(world.there.baseUrl + target)
      const { instance: _, request_id: __, ...words } = (await response.json()) as Record<string, unknown>
      const headers = [...response.headers].filter(
        ([header]) => !['date', 'x-request-id', 'content-length'].includes(header),
      )
      seen.set(name, JSON.stringify([response.status, words, headers]))
    }
    expect(seen.get('nonsense')).toContain('media.link_refused')
    expect(new Set(seen.values()).size).toBe(1)
    expect(await openOn(world.there, link)).toBe('200')
  })

  test('is never logged', async () => {
    const written: string[] = []
    const app = await world.start({ log: createLog('trace', { write: (line) => void written.push(line) }) })
    const link = await world.sign(bob, picture)
    const { target } = await world.share(ada, picture)
    for (const secret of [link, `${link}A`, target, `${target}A`]) await openOn(app, secret)
    expect(written.join('')).toContain('media.link_refused')
    for (const secret of [link, target]) expect(written.join('')).not.toContain(secret.split('=')[1] as string)
  })
})

describe('a response to a link', () => {
  test('equals the response to an access token in ranges, tags and types, and may be embedded cross-origin', async () => {
    const links = [await world.sign(bob, picture), (await world.share(ada, picture)).target]
    const path = `/api/v1${picture.path}/content`
    const headersOf = async (target: string, headers: Record<string, string>) => {
      const response = await fetch(world.there.baseUrl + target, { headers })
      await response.arrayBuffer()
      const names = ['etag', 'content-type', 'content-length', 'content-range', 'accept-ranges', 'content-disposition']
      const own = Object.fromEntries(names.map((name) => [name, response.headers.get(name)]))
      return { own: { status: response.status, ...own }, headers: response.headers }
    }
    const authorization = `Bearer ${ada.token}`
    const { own } = await headersOf(path, { authorization })
    const tag = (own as Record<string, unknown>)['etag'] as string
    for (const [headers, status] of [
      [{}, 200],
      [{ range: 'bytes=4-11' }, 206],
      [{ range: 'bytes=4-11', 'if-range': '"another"' }, 200],
      [{ 'if-none-match': tag }, 304],
      [{ range: 'bytes=99999999-' }, 416],
    ] as const) {
      const byToken = await headersOf(path, { ...headers, authorization })
      expect([byToken.own.status, byToken.headers.get('cross-origin-resource-policy')]).toEqual([status, 'same-origin'])
      for (const link of links) {
        const byLink = await headersOf(link, headers)
        expect(byLink.own).toEqual(byToken.own)
        if (status === 416) continue
        expect(byLink.headers.get('cross-origin-resource-policy')).toBe('cross-origin')
        expect(byLink.headers.get('cache-control')).toBe('private, no-cache')
        expect(byLink.headers.get('referrer-policy')).toBe('no-referrer')
      }
    }
  })
})
