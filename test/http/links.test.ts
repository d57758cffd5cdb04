import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createApp } from '../../src/app.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRandom } from '../access/random.ts'
import type { Person } from '../harness.ts'
import { sendRaw } from './black-box/wire.ts'
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
  test('opens what it was made for, without a token, and beside any', async () => {
    const link = await world.sign(bob, picture)
    expect(await openOn(world.here, link)).toBe('200')
    expect(await openOn(world.there, link)).toBe('200')
    for (const authorization of ['Bearer nonsense', `Bearer ${ada.token}`]) {
      expect(await openOn(world.there, link, { headers: { authorization } })).toBe('200')
      expect(await openOn(world.there, `${link}x`, { headers: { authorization } })).toBe(refused)
    }
  })

  test('is for one variant, the one that was asked for', async () => {
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

  test('is for GET and HEAD, or for HEAD alone', async () => {
    const [get, head] = [await world.sign(bob, picture), await world.sign(bob, picture, { method: 'HEAD' })]
    expect(await openOn(world.there, get, { method: 'HEAD' })).toBe('200')
    expect(await openOn(world.there, head, { method: 'HEAD' })).toBe('200')
    expect(await openOn(world.there, head)).toBe(refused)
    expect(await openOn(world.there, head, { method: 'DELETE' })).not.toBe('200')
  })

  test('is made by who may download, for as long as it says', async () => {
    const hidden = await world.picture(ada, 'private')
    expect((await world.as(bob).post(`${hidden.path}/links`, {})).body.code).toBe('media.not_found')
    const unknown = await world.as(bob).post(`/media/${newId()}/links`, {})
    expect(unknown.body.code).toBe('media.not_found')
    const { expires_at, variant, method } = (await world.as(bob).post(`${picture.path}/links`, { expires_in: 60 })).body
    expect({ variant, method }).toEqual({ variant: 'original', method: 'GET' })
    expect(Math.abs(Date.parse(expires_at) - Date.now() - 60_000)).toBeLessThan(10_000)
  })

  test('ends when it says, whatever is in memory', async () => {
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

  test('names the address the service is known by', async () => {
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

  test('when warm costs the statement for the row, and none when it is none', async () => {
    const link = await world.sign(bob, picture)
    expect(await openOn(world.there, link)).toBe('200')
    await world.there.leased()
    world.statements.length = 0
    expect(await openOn(world.there, link)).toBe('200')
    expect(world.statements).toHaveLength(1)
    expect(world.statements[0]).toContain('media_objects')
    world.statements.length = 0
    for (let at = 0; at < 100; at += 1) expect(await openOn(world.there, `${link.slice(0, -at - 1)}`)).toBe(refused)
    expect(world.statements).toEqual([])
  })

  test('is refused in one way, whatever is wrong with it', async () => {
    const link = await world.sign(bob, picture)
    const other = await world.picture(ada)
    const own = await world.login(bob)
    const [ended, private_] = [await world.sign(own, picture), await world.sign(bob, other)]
    await world.done(world.as(own).post('/auth/logout'), 204)
    await world.done(world.as(ada).patch(`/projects/${other.project}`, { visibility: 'private' }), 200)
    const here = link.replace(/=.*/, '=')
    const wrong = {
      tampered: link.replace(/.$/, '-'),
      'cut short': link.slice(0, -10),
      'for another thing': private_.replace(other.media, picture.media),
      'for something that is not there': link.replace(picture.media, newId()),
      'by a session that ended': ended,
      'by somebody who may not any more': private_,
      'for HEAD': await world.sign(bob, picture, { method: 'HEAD' }),
      empty: here,
      nonsense: `${here}nonsense`,
      'no share link': link.replace('signature', 'share'),
    }
    const seen = new Map<string, string>()
    for (const [name, target] of Object.entries(wrong)) {
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

  test('is written to no log', async () => {
    const written: string[] = []
    const app = await world.start({ log: createLog('trace', { write: (line) => void written.push(line) }) })
    const link = await world.sign(bob, picture)
    const { target } = await world.share(ada, picture)
    for (const secret of [link, `${link}A`, target, `${target}A`]) await openOn(app, secret)
    expect(written.join('')).toContain('media.link_refused')
    for (const secret of [link, target]) expect(written.join('')).not.toContain(secret.split('=')[1] as string)
  })
})

describe('what is answered by a link', () => {
  test('is as by a token in ranges, tags and types, and may be embedded anywhere', async () => {
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

describe('of a signed link, a hundred thousand others', () => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const total = 100_000

  /** Other texts than the one given, each once, the likeliest first. */
  function* mutationsOf(target: string, others: readonly string[]): Generator<string> {
    const { below } = createRandom(7)
    const character = () => String.fromCharCode(33 + below(94))
    const replaced = (at: number, text: string, length = 1) => target.slice(0, at) + text + target.slice(at + length)
    const hex = (at: number) => target.charCodeAt(at).toString(16)
    const [path = '', token = ''] = target.split('signature=')
    const withToken = (text: string) => `${path}signature=${text}`
    for (let at = 0; at < target.length; at += 1) {
      for (let bit = 0; bit < 8; bit += 1) yield replaced(at, String.fromCharCode(target.charCodeAt(at) ^ (1 << bit)))
    }
    const bytes = Buffer.from(token, 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const other = Buffer.from(bytes)
      other[bit >> 3] = (other[bit >> 3] as number) ^ (1 << (bit & 7))
      yield withToken(other.toString('base64url'))
    }
    for (let at = 0; at < token.length; at += 1) {
      for (const one of alphabet) yield withToken(token.slice(0, at) + one + token.slice(at + 1))
    }
    for (let at = 1; at < target.length; at += 1) {
      yield target.slice(0, at)
      yield replaced(at, '')
      yield replaced(at, target[at]?.toUpperCase() ?? '')
      yield replaced(at, target[at]?.toLowerCase() ?? '')
      yield replaced(at, `%${hex(at)}`)
      yield replaced(at, `%${hex(at).toUpperCase()}`)
      yield replaced(at, `%25${hex(at)}`)
      for (let to = at + 1; to < target.length; to += 7) {
        yield target.slice(0, at) + target[to] + target.slice(at + 1, to) + target[at] + target.slice(to + 1)
      }
    }
    for (let at = 0; at < bytes.length; at += 1) {
      yield withToken(bytes.subarray(at).toString('base64url'))
      yield withToken(bytes.subarray(0, at).toString('base64url'))
      yield withToken(Buffer.concat([bytes, Buffer.alloc(at + 1)]).toString('base64url'))
      yield withToken(Buffer.concat([bytes.subarray(at), bytes.subarray(0, at)]).toString('base64url'))
    }
    for (const one of [
      ...alphabet,
      '=',
      '==',
      '===',
      '+',
      '/',
      '%00',
      '%0A',
      '%20',
      '.',
      '~',
      '&',
      '&x=1',
      '&signature=',
    ]) {
      yield target + one
      yield withToken(one + token)
      yield `${path}${one}signature=${token}`
    }
    yield withToken(bytes.toString('base64'))
    yield withToken(bytes.toString('hex'))
    yield withToken(token.toLowerCase())
    yield withToken(token.toUpperCase())
    yield withToken([...token].toReversed().join(''))
    yield `${target}&signature=${token}`
    yield `${path}share=${token}`
    yield `${path}Signature=${token}`
    yield `${path}signature[]=${token}`
    yield `${path}%73ignature=${token}`
    yield `${path}share=&signature=${token}`
    yield `${path}variant=original&signature=${token}`
    yield `${path.replace('?', '/?')}signature=${token}`
    yield `${path.replace('content', '%63ontent')}signature=${token}`
    for (const other of others) {
      const [otherPath = '', otherToken = ''] = other.split('signature=')
      if (otherPath !== path) {
        yield otherPath + target.slice(path.length)
        yield withToken(otherToken)
      }
      const otherBytes = Buffer.from(otherToken, 'base64url')
      for (let at = 1; at < bytes.length; at += 1) {
        yield withToken(Buffer.concat([bytes.subarray(0, at), otherBytes.subarray(at)]).toString('base64url'))
        yield withToken(Buffer.concat([otherBytes.subarray(0, at), bytes.subarray(at)]).toString('base64url'))
      }
    }
    for (;;) {
      let text = target
      for (let times = 1 + below(3); times > 0; times -= 1) {
        const at = 1 + below(text.length - 1)
        const changed = [
          () => text.slice(0, at) + character() + text.slice(at + 1),
          () => text.slice(0, at) + character() + text.slice(at),
          () => text.slice(0, at) + text.slice(at + 1 + below(3)),
          () => text.replace(token, withToken(alphabet[below(64)] + token.slice(1)).slice(path.length + 10)),
          () => `${text.slice(0, -1)}${alphabet[below(64)]}`,
          () => text.replace(picture.media, newId()),
        ][below(6)]
        text = changed?.() ?? text
      }
      yield text
    }
  }

  /** As a request would have it: what a URL does not tell apart is no other link. */
  const asRequested = (baseUrl: string, target: string): string | undefined => {
    const url = URL.parse(baseUrl + target)
    if (url === null || url.origin !== baseUrl) return undefined
    url.hash = ''
    return url.pathname + url.search
  }
  const good = (link: string) => openOn(world.here, link)

  const mutations = (link: string, others: readonly string[], count: number) => {
    const distinct = new Set<string>()
    // What it comes to when it is good itself: the same link, or another good one.
    const known = new Set([link, ...others].map((target) => asRequested(world.here.baseUrl, target)))
    for (const mutation of mutationsOf(link, others)) {
      const target = asRequested(world.here.baseUrl, mutation)
      if (target === undefined || known.has(target)) continue
      distinct.add(target)
      if (distinct.size === count) break
    }
    return [...distinct]
  }
  const otherLinks = async () => [
    await world.sign(bob, picture, { variant: '256' }),
    await world.sign(bob, picture, { method: 'HEAD' }),
    await world.sign(bob, await world.picture(ada)),
    await world.sign(await world.login(bob), picture),
    await world.sign(ada, picture, { expires_in: 86_400 }),
  ]

  test('are refused, all of them, without a question to Postgres', async () => {
    const link = await world.sign(bob, picture)
    const others = await otherLinks()
    const app = createApp(world.there.services, () => '127.0.0.1')
    expect([await good(link), await openOn(world.there, link)]).toEqual(['200', '200'])
    const tried = mutations(link, others, total)
    expect(tried).toHaveLength(total)
    await world.there.leased()
    world.statements.length = 0
    const opened: string[] = []
    const answers = new Map<number, number>()
    for (const target of tried) {
      const { status } = await app.fetch(new Request(world.there.baseUrl + target))
      answers.set(status, (answers.get(status) ?? 0) + 1)
      if (status < 400) opened.push(target)
    }
    expect(opened).toEqual([])
    // What is still a link in its form is refused as one; the rest is none of this route, or of its parameters.
    expect(answers.get(403)).toBeGreaterThan(total / 2)
    expect([...answers.keys()].filter((status) => ![401, 403, 404, 422].includes(status))).toEqual([])
    expect(world.statements).toEqual([])
    expect((await app.fetch(new Request(world.there.baseUrl + link))).status).toBe(200)
    expect(await good(link)).toBe('200')
    for (const other of others) expect(await openOn(world.here, other, { method: 'HEAD' })).toBe('200')
  }, 60_000)

  test('are refused over a socket, byte for byte as they are', async () => {
    const link = await world.sign(bob, picture)
    const others = await otherLinks()
    const statusOf = async (target: string) => {
      const head = `GET ${target} HTTP/1.1\r\nhost: ${new URL(world.here.baseUrl).host}\r\nconnection: close\r\n\r\n`
      return (await sendRaw(world.here.baseUrl, [Buffer.from(head, 'latin1')]))?.status
    }
    expect(await statusOf(link)).toBe(200)
    const raw: string[] = []
    for (const mutation of mutationsOf(link, others)) {
      // A space or a line end is not part of a target, and what follows `#` is not sent to anybody.
      const isSame = mutation === link || others.includes(mutation) || mutation.startsWith(`${link}#`)
      if (!isSame && !/[\s#]/.test(mutation)) raw.push(mutation)
      if (raw.length === 3_000) break
    }
    const opened: string[] = []
    for (let at = 0; at < raw.length; at += 50) {
      const some = raw.slice(at, at + 50)
      const statuses = await Promise.all(some.map(statusOf))
      opened.push(...some.filter((_, index) => (statuses[index] ?? 400) < 400))
    }
    expect(opened).toEqual([])
    expect(await statusOf(link)).toBe(200)
  }, 60_000)
})
