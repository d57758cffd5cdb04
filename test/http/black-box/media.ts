import { beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomUUID } from 'node:crypto'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, refusal } from './driver.ts'

const generations = '/api/v1/generations'
const asked = { model: 'local/procedural', prompt: 'a lighthouse at dusk', parameters: { width: 96, height: 64 } }

export const media: Group = (world) =>
  describe('the media of a generation', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const order = (input: object = {}, { token }: Person = owner, headers: Record<string, string> = {}) =>
      world().post(generations, { ...asked, ...input }, { token, headers })
    const balanceOf = async ({ token }: Person) =>
      (await world().get('/api/v1/credits/balance', { token })).body.balance
    const isOver = ({ status }: { status: string }) => !['queued', 'processing'].includes(status)
    const settled = async (id: string, { token }: Person = owner) => {
      for (const giveUpAt = performance.now() + 30_000; performance.now() < giveUpAt; await Bun.sleep(20)) {
        const { body } = await world().get(`${generations}/${id}`, { token })
        if (isOver(body)) return body
      }
      throw new Error('It was not made in time')
    }
    const make = async (input: object = {}) => {
      const { status, body } = await order(input)
      expect(status).toBe(201)
      expect(await settled(body.id)).toMatchObject({ status: 'completed', failure: null, progress: 1 })
      const { items } = (await world().get(`${generations}/${body.id}/media`, { token: owner.token })).body
      return { generation: body, items }
    }
    const fetchBytes = async (path: string, headers: Record<string, string> = {}) => {
      const response = await fetch(`${world().subject.baseUrl}${path}`, {
        headers: { authorization: `Bearer ${owner.token}`, ...headers },
      })
      return { response, bytes: new Uint8Array(await response.arrayBuffer()) }
    }
    const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

    test('are one picture for each output, settled, from the given or chosen seed', async () => {
      const before = await balanceOf(owner)
      const { generation, items } = await make({ outputs: 2, parameters: { width: 96, height: 64, format: 'png' } })
      expect(generation.price).toBe(2)
      expect(await balanceOf(owner)).toBe(before - 2)
      expect(items.map(({ position }: { position: number }) => position)).toEqual([0, 1])
      for (const item of items) {
        expect(item).toMatchObject({
          generation_id: generation.id,
          owner_id: owner.id,
          content_type: 'image/png',
          width: 96,
          height: 64,
          duration_ms: null,
          variants: ['original', '256', '512', '1024'],
        })
        expect((await world().get(`/api/v1/media/${item.id}`, { token: owner.token })).body).toEqual(item)
      }
      const same = await make({ parameters: generation.parameters })
      const [first, again] = [
        await fetchBytes(`/api/v1/media/${items[0].id}/content`),
        await fetchBytes(`/api/v1/media/${same.items[0].id}/content`),
      ]
      expect(sha256(again.bytes)).toBe(sha256(first.bytes))
      const { body: page } = await world().get(`${generations}/${generation.id}/media?limit=1`, { token: owner.token })
      expect(page.items).toEqual([items[0]])
      const rest = await world().get(`${generations}/${generation.id}/media?cursor=${page.next_cursor}`, {
        token: owner.token,
      })
      expect(rest.body).toEqual({ items: [items[1]], next_cursor: null })
    }, 60_000)

    test('can be checked like any resource: their layer reports that the generation is completed', async () => {
      const { items } = await make()
      const question = { action: 'download', resource: { type: 'media', id: items[0].id } }
      const ask = (way: string, { token }: Person) => world().post(`/api/v1/authorization/${way}`, question, { token })
      expect((await ask('check', owner)).body).toEqual({ allowed: true, reason: 'ownership.generation_owner' })
      expect((await ask('check', stranger)).body).toEqual({ allowed: false, reason: 'resource.not_visible' })
      const { layers } = (await ask('explain', owner)).body
      expect(layers.find(({ layer }: { layer: number }) => layer === 6)).toMatchObject({
        name: 'media',
        verdict: 'abstain',
        reason: 'media.generation_completed',
      })
    })

    test('are served with their type, whole, by range, as a thumbnail, or as 304', async () => {
      const { items } = await make()
      const path = `/api/v1/media/${items[0].id}/content`
      const { response, bytes } = await fetchBytes(path)
      const tag = `"${sha256(bytes)}"`
      expect([response.status, bytes.length, response.headers.get('etag')]).toEqual([200, items[0].bytes, tag])
      expect(Object.fromEntries(response.headers)).toMatchObject({
        'content-type': 'image/webp',
        'content-length': String(bytes.length),
        'content-disposition': `inline; filename="${items[0].id}.webp"`,
        'accept-ranges': 'bytes',
        'x-content-type-options': 'nosniff',
      })
      expect(response.headers.get('cache-control')).toContain('private')
      // Opened in a tab, the picture is displayed and no script runs; a 304 must not replace that policy.
      const policy =
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; " +
        "form-action 'none'; frame-ancestors 'none'; sandbox allow-same-origin"
      expect(response.headers.get('content-security-policy')).toBe(policy)
      const token = owner.token
      const get = (headers: Record<string, string>) => world().get(path, { token, headers })
      expect((await get({})).status).toBe(200)
      const part = await fetchBytes(path, { range: 'bytes=4-11' })
      expect([part.response.status, part.response.headers.get('content-range')]).toEqual([
        206,
        `bytes 4-11/${bytes.length}`,
      ])
      expect(part.bytes).toEqual(bytes.slice(4, 12))
      expect((await get({ range: 'bytes=-5', 'if-range': tag })).headers.get('content-length')).toBe('5')
      expect((await get({ range: 'bytes=-5', 'if-range': '"another"' })).status).toBe(200)
      const beyond = await get({ range: `bytes=${bytes.length}-` })
      expect([refusal(beyond), beyond.headers.get('content-range')]).toEqual([
        '416 media.range_not_satisfiable',
        `bytes */${bytes.length}`,
      ])
      for (const known of [tag, `W/${tag}`, `"x", ${tag}`, '*']) {
        const unchanged = await get({ 'if-none-match': known })
        expect([unchanged.status, unchanged.text, unchanged.headers.get('etag')]).toEqual([304, '', tag])
        expect(unchanged.headers.get('content-security-policy')).toBe(policy)
      }
      const tags = new Set([tag])
      for (const variant of ['256', '512', '1024']) {
        const small = await fetchBytes(`${path}?variant=${variant}`)
        expect([small.response.status, small.response.headers.get('content-type')]).toEqual([200, 'image/webp'])
        expect(new TextDecoder('latin1').decode(small.bytes.slice(8, 12))).toBe('WEBP')
        tags.add(small.response.headers.get('etag') ?? '')
      }
      expect(tags.size).toBe(4)
      const head = await world().send('HEAD', path, { token })
      expect([head.status, head.text, head.headers.get('content-length')]).toEqual([200, '', String(bytes.length)])
    }, 60_000)

    test('have their full length in a response to HEAD even with a range, or give 304', async () => {
      const { items } = await make()
      const path = `/api/v1/media/${items[0].id}/content`
      const head = async (headers: Record<string, string>) => {
        const answer = await world().send('HEAD', path, { token: owner.token, headers })
        const told = ['content-length', 'content-range', 'accept-ranges'].map((name) => answer.headers.get(name))
        return [answer.status, answer.text, ...told]
      }
      const whole = [200, '', String(items[0].bytes), null, 'bytes']
      for (const range of ['bytes=0-9', 'bytes=-5', `bytes=${items[0].bytes}-`]) {
        expect([range, ...(await head({ range }))]).toEqual([range, ...whole])
      }
      const tag = (await world().get(path, { token: owner.token })).headers.get('etag') ?? ''
      expect(await head({ range: 'bytes=0-9', 'if-range': tag })).toEqual(whole)
      expect((await head({ range: 'bytes=0-9', 'if-none-match': tag }))[0]).toBe(304)
    }, 60_000)

    test('need read and download on their generation, and are otherwise not found', async () => {
      const { body: project } = await world().post('/api/v1/projects', { name: 'Shown' }, { token: owner.token })
      const { items } = await make({ project_id: project.id })
      const see = async () => {
        const answers: Answer[] = []
        for (const path of [`/api/v1/media/${items[0].id}`, `/api/v1/media/${items[0].id}/content`]) {
          answers.push(await world().get(path, { token: stranger.token }))
        }
        return answers
      }
      const told = (answers: readonly Answer[]) => answers.map(({ status, body }) => body?.code ?? status)
      expect(told(await see())).toEqual(['media.not_found', 'media.not_found'])
      await world().patch(`/api/v1/projects/${project.id}`, { visibility: 'public' }, { token: owner.token })
      expect((await see()).map(({ status }) => status)).toEqual([200, 200])
      const remove = ({ token }: Person) => world().delete(`/api/v1/media/${items[0].id}`, { token })
      expect(refusal(await remove(stranger))).toBe('403 access.denied')
      await world().patch(`/api/v1/projects/${project.id}`, { visibility: 'private' }, { token: owner.token })
      const hidden = await see()
      expect(told(hidden)).toEqual(['media.not_found', 'media.not_found'])
      expect(refusal(await remove(stranger))).toBe('404 media.not_found')
      for (const answer of hidden) {
        const imagined = randomUUID()
        const path = answer.body.instance.replace(items[0].id, imagined)
        const never = await world().get(path, { token: stranger.token })
        expect({ ...never.body, request_id: '', instance: '' }).toEqual({
          ...answer.body,
          request_id: '',
          instance: '',
        })
      }
      expect(refusal(await world().get(`${generations}/${unknownId}/media`, { token: owner.token }))).toBe(
        '404 generation.not_found',
      )
      await world().delete(`${generations}/${items[0].generation_id}`, { token: owner.token })
      expect(refusal(await world().get(`/api/v1/media/${items[0].id}`, { token: owner.token }))).toBe(
        '404 media.not_found',
      )
    }, 60_000)

    test('are deleted one by one, and their generation stays', async () => {
      const { generation, items } = await make({ outputs: 2 })
      const { token } = owner
      const whole = `${generations}/${generation.id}`
      const before = (await world().get(whole, { token })).body
      expect((await world().delete(`/api/v1/media/${items[0].id}`, { token })).status).toBe(204)
      expect((await world().get(`${whole}/media`, { token })).body.items).toEqual([items[1]])
      expect((await world().delete(`/api/v1/media/${items[1].id}`, { token })).status).toBe(204)
      expect((await world().get(`${whole}/media`, { token })).body.items).toEqual([])
      expect((await world().get(whole, { token })).body).toEqual(before)
    }, 60_000)

    test('are ordered once by a request that is repeated with its idempotency key', async () => {
      const key = { 'idempotency-key': randomUUID() }
      const before = await balanceOf(owner)
      const answers = await Promise.all(Array.from({ length: 5 }, () => order({}, owner, key)))
      expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1)
      expect(answers.filter(({ headers }) => headers.get('idempotent-replayed') === 'true')).toHaveLength(4)
      expect(await balanceOf(owner)).toBe(before - 1)
      expect(refusal(await order({ prompt: 'another' }, owner, key))).toBe('422 request.idempotency_key_reused')
    })

    test('are not made of an order that the model refuses, or whose model has no provider', async () => {
      const problems = async (input: object) => {
        const answer = await order(input)
        return [refusal(answer), ...(answer.body.errors ?? []).map(({ pointer }: { pointer: string }) => pointer)]
      }
      expect(await problems({ model: 'nobody/knows' })).toEqual(['422 request.invalid', '/model'])
      expect(await problems({ parameters: { width: 63, colour: 'red' } })).toEqual([
        '422 request.invalid',
        '/parameters/width',
        '/parameters/colour',
      ])
      expect(await problems({ outputs: 5 })).toEqual(['422 request.invalid', '/outputs'])
      const elsewhere = await world().get('/api/v1/models?limit=100')
      const absent = elsewhere.body.items.find(({ available }: { available: boolean }) => !available)
      if (absent !== undefined) {
        expect(refusal(await order({ model: absent.id, parameters: {} }))).toBe('409 model.unavailable')
      }
    })

    test('are not made after a caller with write cancels the order, which is refunded once', async () => {
      const before = await balanceOf(owner)
      const { body: project } = await world().post(
        '/api/v1/projects',
        { name: 'Shown', visibility: 'public' },
        { token: owner.token },
      )
      const large = { outputs: 4, parameters: { width: 2_048, height: 2_048 }, project_id: project.id }
      const { id } = (await order(large)).body
      expect(await balanceOf(owner)).toBe(before - 4)
      const cancel = ({ token }: Person, target = id) =>
        world().post(`${generations}/${target}/cancel`, undefined, { token })
      expect(refusal(await cancel(stranger))).toBe('403 access.denied')
      expect(refusal(await cancel(owner, unknownId))).toBe('404 generation.not_found')
      const answers = await Promise.all([cancel(owner), cancel(owner), cancel(owner)])
      expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 409, 409])
      expect(answers.find(({ status }) => status === 200)?.body).toMatchObject({ id, status: 'cancelled' })
      expect(refusal(await cancel(owner))).toBe('409 generation.finished')
      expect(await balanceOf(owner)).toBe(before)
      const removed = (await order(large)).body.id
      expect((await world().delete(`${generations}/${removed}`, { token: owner.token })).status).toBe(204)
      expect(await balanceOf(owner)).toBe(before)
    }, 60_000)
  })
