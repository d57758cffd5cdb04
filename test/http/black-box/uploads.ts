import { beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomUUID } from 'node:crypto'
import sharp from 'sharp'
import { digitalSource, gradient, place, takenFile, xmpWith } from '../../harness/photos.ts'
import { hostileUploads, newPicture } from '../../harness/pictures.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, refusal } from './driver.ts'
import { headOf } from './wire.ts'

const path = '/api/v1/media'
const maxBytes = 25 * 1_048_576

export const uploads: Group = (world) =>
  describe('an uploaded picture', () => {
    let ada: Person
    let bob: Person
    beforeAll(async () => {
      ada = await world().register()
      bob = await world().register()
    })
    const upload = (bytes: Uint8Array, type = 'image/png', { token }: Person = ada) =>
      world().send('POST', path, { token, headers: { 'content-type': type }, body: bytes as Uint8Array<ArrayBuffer> })
    const list = async ({ token }: Person, query = '') => (await world().get(`${path}${query}`, { token })).body
    const withoutIds = ({ status, text }: Answer, ...ids: string[]) =>
      ids.reduce((rest, id) => rest.replaceAll(id, ''), `${status} ${text.replace(/"request_id":"[^"]*"/, '')}`)

    test('may be the file of a form, as a browser sends it', async () => {
      const bytes = (await newPicture('jpeg', 120, 80)) as Uint8Array<ArrayBuffer>
      const { token } = await world().register()
      const form = (...files: [name: string, file: File][]) => {
        const data = new FormData()
        data.append('title', 'A lighthouse')
        for (const [name, file] of files) data.append(name, file)
        return world().send('POST', path, { token, body: data })
      }
      const photo = new File([bytes], 'café "1".jpg', { type: 'image/jpeg' })
      const { status, body } = await form(['photo', photo], ['other', new File([], '')])
      expect([status, body.content_type, body.bytes, body.width]).toEqual([201, 'image/jpeg', bytes.length, 120])
      const unnamed = await form(['file', new File([bytes], 'x')])
      expect([unnamed.status, unnamed.body.content_type]).toEqual([201, 'image/jpeg'])
      const refusals = [
        await form(),
        await form(['a', photo], ['b', photo]),
        await form(['a', new File([bytes], 'x.png', { type: 'image/png' })]),
        await form(['a', new File([bytes], 'x.gif', { type: 'image/gif' })]),
        await form(['a', new File(['no picture'], 'x.jpg', { type: 'image/jpeg' })]),
        await form(['a', new File([], 'x.jpg', { type: 'image/jpeg' })]),
      ]
      expect(refusals.map(refusal)).toEqual([
        '422 request.invalid',
        '422 request.invalid',
        '422 media.type_contradicted',
        '415 media.type_not_accepted',
        '415 media.type_not_accepted',
        '422 media.empty',
      ])
    })

    test('of each accepted type is served to its uploader in every size', async () => {
      for (const type of ['png', 'jpeg', 'webp'] as const) {
        const bytes = await newPicture(type, 300, 200)
        const { status, body } = await upload(bytes, `image/${type}`)
        expect([status, body]).toEqual([
          201,
          expect.objectContaining({
            owner_id: ada.id,
            generation_id: null,
            position: null,
            content_type: `image/${type}`,
            bytes: bytes.length,
            width: 300,
            height: 200,
          }),
        ])
        expect((await world().get(`${path}/${body.id}`, { token: ada.token })).body).toEqual(body)
        const content = await fetch(`${world().subject.baseUrl}${path}/${body.id}/content`, {
          headers: { authorization: `Bearer ${ada.token}` },
        })
        const kept = new Uint8Array(await content.arrayBuffer())
        expect(createHash('sha256').update(kept).digest('hex')).toBe(createHash('sha256').update(bytes).digest('hex'))
        for (const variant of ['256', '512', '1024']) {
          const small = await world().get(`${path}/${body.id}/content?variant=${variant}`, { token: ada.token })
          expect([small.status, small.headers.get('content-type')]).toEqual([200, 'image/webp'])
        }
      }
      const [newest, ...rest] = (await list(ada)).items
      expect([newest.content_type, rest.length]).toEqual(['image/webp', 2])
      const page = await list(ada, '?limit=2')
      const last = await list(ada, `?limit=2&cursor=${page.next_cursor}`)
      expect([...page.items, ...last.items]).toEqual([newest, ...rest])
      expect(last.next_cursor).toBeNull()
    })

    test('is accepted with a type in any case and with parameters, and in chunks without a length', async () => {
      const bytes = await newPicture()
      expect((await upload(bytes, 'IMAGE/PNG; charset=binary')).status).toBe(201)
      const head = headOf('POST', path, {
        authorization: `Bearer ${ada.token}`,
        'content-type': 'image/png',
        'transfer-encoding': 'chunked',
      })
      const pieces = [bytes.subarray(0, 100), bytes.subarray(100)].flatMap((piece) => [
        `${piece.length.toString(16)}\r\n`,
        piece,
        '\r\n',
      ])
      expect((await world().raw('POST', path, [head, ...pieces, '0\r\n\r\n']))?.status).toBe(201)
    })

    const contentOf = async (id: string, query = '') => {
      const content = await fetch(`${world().subject.baseUrl}${path}/${id}/content${query}`, {
        headers: { authorization: `Bearer ${ada.token}` },
      })
      return Buffer.from(await content.arrayBuffer())
    }

    test('as a phone writes it is accepted, and served without what follows the picture', async () => {
      for (const name of ['samsung-trailer.jpg', 'zero-padded.jpg', 'motion-photo.jpg']) {
        const bytes = await takenFile(name)
        const photo = bytes.subarray(0, bytes.indexOf(Buffer.from([0xff, 0xd9])) + 2)
        const { status, body } = await upload(bytes, 'image/jpeg')
        expect([name, status, body.bytes]).toEqual([name, 201, photo.length])
        expect([name, (await contentOf(body.id)).equals(photo)]).toEqual([name, true])
      }
    })

    test('is served without the place where it was taken, upright, and says if a model made it', async () => {
      const xmp = xmpWith(digitalSource('trainedAlgorithmicMedia'))
      const photo = await gradient().withExif(place).withMetadata({ orientation: 6 }).withXmp(xmp).jpeg().toBuffer()
      const { status, body } = await upload(photo, 'image/jpeg')
      expect([status, body.width, body.height]).toEqual([201, 48, 64])
      for (const [query, orientation] of [
        ['', 6],
        ['?variant=256', undefined],
      ] as const) {
        const served = await contentOf(body.id, query)
        for (const secret of ['Ada', 'Phone']) expect([query, served.includes(secret)]).toEqual([query, false])
        const metadata = await sharp(served).metadata()
        expect([query, metadata.orientation, metadata.autoOrient.width]).toEqual([query, orientation, 48])
        expect(metadata.xmpAsString).toContain('digitalsourcetype/trainedAlgorithmicMedia')
      }
    })

    test('is not visible to others, who get the response for an unknown id, also to DELETE', async () => {
      const { id } = (await upload(await newPicture())).body
      const imagined = randomUUID()
      for (const target of [(each: string) => `${path}/${each}`, (each: string) => `${path}/${each}/content`]) {
        const [real, never] = [
          await world().get(target(id), { token: bob.token }),
          await world().get(target(imagined), { token: bob.token }),
        ]
        expect(refusal(real)).toBe('404 media.not_found')
        expect(withoutIds(real, id)).toBe(withoutIds(never, imagined))
      }
      expect(refusal(await world().delete(`${path}/${id}`, { token: bob.token }))).toBe('404 media.not_found')
      expect(await list(bob)).toEqual({ items: [], next_cursor: null })
      expect((await world().get(`${path}/${id}`, { token: ada.token })).status).toBe(200)
    })

    test('can be a reference, with download', async () => {
      const generations = '/api/v1/generations'
      const { id } = (await upload(await newPicture())).body
      const asked = {
        model: 'local/procedural',
        prompt: 'a lighthouse',
        parameters: { width: 64, height: 64, seed: 7 },
      }
      const make = async (input: object) => {
        const { status, body } = await world().post(generations, { ...asked, ...input }, { token: ada.token })
        expect(status).toBe(201)
        for (const giveUpAt = performance.now() + 30_000; performance.now() < giveUpAt; await Bun.sleep(20)) {
          const now = (await world().get(`${generations}/${body.id}`, { token: ada.token })).body
          if (['queued', 'processing'].includes(now.status)) continue
          expect(now).toMatchObject({ status: 'completed', failure: null })
          break
        }
        const { items } = (await world().get(`${generations}/${body.id}/media`, { token: ada.token })).body
        const content = await world().get(`${path}/${items[0].id}/content`, { token: ada.token })
        return { made: body, tag: content.headers.get('etag') }
      }
      const [by, again, without] = [
        await make({ reference_media_id: id }),
        await make({ reference_media_id: id }),
        await make({}),
      ]
      expect([by.made.reference_media_id, without.made.reference_media_id]).toEqual([id, null])
      expect([again.tag === by.tag, without.tag === by.tag]).toEqual([true, false])
      const theirs = await world().post(generations, { ...asked, reference_media_id: id }, { token: bob.token })
      expect(refusal(theirs)).toBe('404 media.not_found')
    }, 60_000)

    test('is deleted once by its uploader', async () => {
      const { id } = (await upload(await newPicture())).body
      const answers = await Promise.all([1, 2, 3].map(() => world().delete(`${path}/${id}`, { token: ada.token })))
      expect(answers.map(({ status }) => status).toSorted()).toEqual([204, 404, 404])
      expect(refusal(await world().get(`${path}/${id}`, { token: ada.token }))).toBe('404 media.not_found')
      expect(refusal(await world().delete(`${path}/${unknownId}`, { token: ada.token }))).toBe('404 media.not_found')
    })

    test('that is invalid is refused with a code for its problem, and nothing is stored', async () => {
      const before = await list(ada, '?limit=100')
      const told: [string, string][] = []
      const cases = await hostileUploads()
      for (const { name, type, bytes } of cases) told.push([name, refusal(await upload(bytes, type))])
      expect(told).toEqual(cases.map(({ name, refusal }) => [name, refusal]))
      expect(await list(ada, '?limit=100')).toEqual(before)
      expect((await upload(await newPicture())).status).toBe(201)
    }, 60_000)

    test('is refused before its body is sent without authentication, with another type, and above 25 MiB', async () => {
      const ask = async (headers: Record<string, string>, parts: readonly (string | Uint8Array)[] = []) => {
        const answer = await world().raw('POST', path, [headOf('POST', path, headers), ...parts])
        return answer && `${answer.status} ${(/"code":"([^"]+)"/.exec(answer.body) ?? [])[1]}`
      }
      const authorization = `Bearer ${ada.token}`
      const length = { 'content-length': String(maxBytes) }
      const type = { 'content-type': 'image/png' }
      expect(await ask({ ...type, ...length })).toBe('401 identity.not_signed_in')
      expect(await ask({ ...type, 'content-length': String(2 * maxBytes) })).toBe('401 identity.not_signed_in')
      expect(await ask({ authorization, 'content-type': 'image/gif', ...length })).toBe('415 media.type_not_accepted')
      expect(await ask({ authorization, ...type, 'content-length': String(maxBytes + 1) })).toBe('413 media.too_large')
      expect(await ask({ authorization, ...type, 'content-length': '0' })).toBe('422 media.empty')
      expect(await ask({ authorization, ...type })).toBe('422 media.empty')
      const size = 262_144
      const chunk = `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`
      const tooMany = Array<string>(maxBytes / size + 1).fill(chunk)
      expect(await ask({ authorization, ...type, 'transfer-encoding': 'chunked' }, tooMany)).toBe('413 media.too_large')
    })
  })
