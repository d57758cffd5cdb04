import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, refusal } from './driver.ts'
import { sendRaw } from './wire.ts'

const asked = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 96, height: 64 } }
const refused = '403 media.link_refused'

export const links: Group = (world) =>
  describe('links to media', () => {
    let owner: Person
    let viewer: Person
    let stranger: Person
    let project: string
    let path: string
    beforeAll(async () => {
      owner = await world().register()
      viewer = await world().register()
      stranger = await world().register()
      const { token } = owner
      project = (await world().post('/api/v1/projects', { name: 'Shown', visibility: 'public' }, { token })).body.id
      const { id } = (await world().post('/api/v1/generations', { ...asked, project_id: project }, { token })).body
      for (const giveUpAt = performance.now() + 30_000; ; await Bun.sleep(20)) {
        const { items } = (await world().get(`/api/v1/generations/${id}/media`, { token })).body
        path = `/api/v1/media/${items[0]?.id}`
        if (items.length > 0) break
        if (performance.now() > giveUpAt) throw new Error('It was not made in time')
      }
    }, 60_000)

    const targetOf = (url: string) => url.slice(new URL(url).origin.length)
    const sign = async (person: Person, input: object = {}) => {
      const { status, body } = await world().post(`${path}/links`, input, { token: person.token })
      expect(status).toBe(201)
      return { ...body, target: targetOf(body.url) }
    }
    test('are made many at once, each for itself', async () => {
      const media_id = path.split('/').at(-1) ?? ''
      const batch = '/api/v1/media/links'
      const { token } = viewer
      const { status, body } = await world().post(
        batch,
        { links: [{ media_id, variant: '256' }, { media_id: unknownId }] },
        { token },
      )
      expect([status, body.items[1].refusal]).toEqual([200, 'media.not_found'])
      expect(await open(targetOf(body.items[0].url))).toBe('200')
      for (const headers of [{ 'content-type': 'text/plain' }, { 'content-type': 'application/json' }]) {
        const wrong = await world().send('POST', batch, { token, headers, body: '{' })
        expect(wrong.status).toBe(headers['content-type'] === 'text/plain' ? 415 : 400)
      }
      expect((await world().post(batch, ' '.repeat(65_537), { token })).status).toBe(413)
      expect((await world().post(batch, { links: [] }, { token })).status).toBe(422)
    })

    const show = (visibility: string) =>
      world().patch(`/api/v1/projects/${project}`, { visibility }, { token: owner.token })
    const told = (answer: Answer) => (answer.status < 400 ? String(answer.status) : refusal(answer))
    const open = async (target: string, headers: Record<string, string> = {}) =>
      told(await world().get(target, { headers }))

    test('open one variant without a token if signed, and may be embedded cross-origin', async () => {
      const link = await sign(viewer, { variant: '256', expires_in: 60 })
      expect(link).toMatchObject({ variant: '256', method: 'GET', expires_at: expect.any(String) })
      expect(new URL(link.url).origin).toBe(world().subject.baseUrl)
      const answer = await world().get(link.target)
      const own = await world().get(`${path}/content?variant=256`, { token: owner.token })
      expect([answer.status, answer.text === own.text]).toEqual([200, true])
      expect(answer.headers.get('etag')).toBe(own.headers.get('etag'))
      expect(answer.headers.get('cross-origin-resource-policy')).toBe('cross-origin')
      expect(own.headers.get('cross-origin-resource-policy')).toBe('same-origin')
      expect(answer.headers.get('cache-control')).toBe('private, no-cache')
      expect(await open(link.target, { range: 'bytes=0-9' })).toBe('206')
      expect(await open(link.target, { 'if-none-match': own.headers.get('etag') ?? '' })).toBe('304')
      expect(await open(link.target, { range: 'bytes=99999999-' })).toBe('416 media.range_not_satisfiable')
      expect((await world().send('HEAD', link.target)).status).toBe(200)
    })

    test('allow only HEAD if signed for HEAD', async () => {
      const { target } = await sign(viewer, { method: 'HEAD' })
      const head = await world().send('HEAD', target)
      expect([head.status, head.text]).toEqual([200, ''])
      expect(Number(head.headers.get('content-length'))).toBeGreaterThan(0)
      expect(await open(target)).toBe(refused)
    })

    test('are refused with any other signature, without a reason', async () => {
      const { target } = await sign(viewer)
      const [before = '', token = ''] = target.split('signature=')
      const words = new Set<string>()
      for (const text of [
        ...Array.from(
          token,
          (character, at) => `${token.slice(0, at)}${character === 'A' ? 'B' : 'A'}${token.slice(at + 1)}`,
        ),
        `%25${token.charCodeAt(0).toString(16)}${token.slice(1)}`,
        `${token}=`,
        `${token}%20`,
        `${token}%00`,
        `+${token}`,
        `${token}A`,
        token.slice(1),
        token.slice(0, -1),
        token.toLowerCase(),
        '',
        'x'.repeat(4_000),
      ]) {
        const answer = await world().get(`${before}signature=${text}`, { token: owner.token })
        expect([text, told(answer)]).toEqual([text, refused])
        words.add(JSON.stringify({ ...answer.body, request_id: '' }))
      }
      expect(words.size).toBe(1)
      expect(await open(target.replace(/[0-9a-f-]{36}/, unknownId))).toBe(refused)
      expect(await open(`${target}&variant=256`)).toBe('422 request.invalid')
      expect(await open(`${target}&share=x`)).toBe('422 request.invalid')
      expect(await open(target)).toBe('200')
    })

    test('take parameters that others add, and percent-encodings of their characters', async () => {
      const { body: issued } = await world().post(`${path}/share-links`, {}, { token: owner.token })
      const encoded = (text: string) =>
        [...text].map((character) => `%${character.charCodeAt(0).toString(16).padStart(2, '0')}`).join('')
      for (const [name, target] of Object.entries({
        signature: (await sign(viewer)).target,
        share: targetOf(issued.url),
      })) {
        const [base = '', query = ''] = target.split('?')
        const token = query.slice(name.length + 1)
        for (const other of [
          `${target}&fbclid=IwAR0x_y-z`,
          `${target}&utm_source=mail&utm_medium=a+b&utm_campaign=%C3%A9`,
          `${base}?gclid=1&${query}`,
          `${target}&`,
          `${target}&x`,
          `${target}&%00=%ZZ`,
          `${base}?&&${query}`,
          `${base}?${name}=${encoded(token)}`,
          `${base}?${name}=${encoded(token).toUpperCase()}`,
          `${base}?${encoded(name)}=${token}`,
          `${base.replaceAll('-', '%2D')}?${query}`,
          `${base.replaceAll('-', '%2d')}?${query}&fbclid=1`,
        ]) {
          expect([other, await open(other)]).toEqual([other, '200'])
          expect([other, (await world().send('HEAD', other)).status]).toEqual([other, 200])
        }
        for (const twice of [`${target}&${query}`, `${target}&${name}=x`, `${base}?${name}=x&${query}`]) {
          expect([twice, await open(twice)]).toEqual([twice, '422 request.invalid'])
        }
      }
      const { token } = owner
      expect((await world().delete(`${path}/share-links/${issued.id}`, { token })).status).toBe(204)
      expect(refusal(await world().get(`${path}/content?fbclid=1`, { token }))).toBe('422 request.invalid')
      expect(refusal(await world().get(`${path}/content?variant=256&variant=512`, { token }))).toBe(
        '422 request.invalid',
      )
    })

    test('begin with the host that the request named, and are relative where it named none', async () => {
      const create = async (kind: string, version: string, ...host: string[]) => {
        const lines = [`POST ${path}/${kind} HTTP/${version}`, ...host, `authorization: Bearer ${viewer.token}`]
        const body = '{}'
        const head = [...lines, 'content-type: application/json', `content-length: ${body.length}`, '', ''].join('\r\n')
        const answer = await sendRaw(world().subject.baseUrl, [head + body])
        if (answer === undefined || answer.status >= 400) return undefined
        return JSON.parse(answer.body).url as string | undefined
      }
      expect(await create('links', '1.1', 'host: media.example.com:8443')).toStartWith(
        `http://media.example.com:8443${path}/content?signature=`,
      )
      // nginx passes such a request on as HTTP/1.1 without Host, which is refused.
      if (world().subject.proxy !== 'nginx') {
        const relative = await create('links', '1.0')
        expect(relative).toStartWith(`${path}/content?signature=`)
        expect(await open(relative ?? '')).toBe('200')
      }
      expect(await create('links', '1.1', 'host: evil/path')).toBeUndefined()
    })

    test('that are signed end with the permission and with the session of their creator', async () => {
      const { target } = await sign(viewer)
      expect(await open(target)).toBe('200')
      await show('private')
      expect(await open(target)).toBe(refused)
      await show('public')
      expect(await open(target)).toBe('200')
      const session = await world().login(viewer)
      const other = await sign(session)
      expect(await open(other.target)).toBe('200')
      await world().post('/api/v1/auth/logout', undefined, { token: session.token })
      expect([await open(other.target), await open(target)]).toEqual([refused, '200'])
    })

    test('that are shared open any variant without an account until they are removed', async () => {
      const { token } = owner
      const sharing = `${path}/share-links`
      const issued = await world().post(sharing, { label: 'for a friend', expires_in: 3_600 }, { token })
      expect(issued.status).toBe(201)
      const { url, ...link } = issued.body
      expect(link).toMatchObject({ label: 'for a friend', created_by: owner.id, expires_at: expect.any(String) })
      for (const more of ['', '&variant=512']) {
        const answer = await world().get(targetOf(url) + more)
        expect([answer.status, answer.headers.get('cross-origin-resource-policy')]).toEqual([200, 'cross-origin'])
      }
      const second = (await world().post(sharing, {}, { token })).body
      expect([second.label, second.expires_at]).toEqual([null, null])
      const page = (await world().get(`${sharing}?limit=1`, { token })).body
      expect(page.items.map(({ id }: { id: string }) => id)).toEqual([second.id])
      const rest = (await world().get(`${sharing}?cursor=${page.next_cursor}`, { token })).body
      expect(rest).toEqual({ items: [link], next_cursor: null })
      expect((await world().delete(`${sharing}/${link.id}`, { token })).status).toBe(204)
      expect(refusal(await world().delete(`${sharing}/${link.id}`, { token }))).toBe('404 share_link.not_found')
      expect([await open(targetOf(url)), await open(targetOf(second.url))]).toEqual([refused, '200'])
      expect(await open(`${targetOf(second.url)}A`)).toBe(refused)
    })

    test('need the permission to create them: 404 for media that is not visible, 403 without share', async () => {
      const attempts = (base: string, { token }: Person) => [
        world().post(`${base}/share-links`, {}, { token }),
        world().get(`${base}/share-links`, { token }),
        world().delete(`${base}/share-links/${unknownId}`, { token }),
      ]
      for (const answer of await Promise.all(attempts(path, viewer))) expect(refusal(answer)).toBe('403 access.denied')
      await show('private')
      const told = async (base: string) => {
        const { token } = stranger
        const answers = await Promise.all([world().post(`${base}/links`, {}, { token }), ...attempts(base, stranger)])
        return answers.map(({ status, body }) => ({ status, ...body, request_id: '', instance: '' }))
      }
      const hidden = await told(path)
      expect(new Set(hidden.map(({ code }) => code))).toEqual(new Set(['media.not_found']))
      expect(hidden).toEqual(await told(`/api/v1/media/${unknownId}`))
      await show('public')
    })

    test('that are shared are limited to 100 for each media', async () => {
      const codes = new Set<string>()
      for (let made = 0; made < 101 && !codes.has('409 share_link.too_many'); made += 10) {
        const some = Array.from({ length: 10 }, () => world().post(`${path}/share-links`, {}, { token: owner.token }))
        for (const answer of await Promise.all(some)) codes.add(told(answer))
      }
      expect(codes).toEqual(new Set(['201', '409 share_link.too_many']))
    }, 60_000)
  })
