import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import type { Answer } from '../harness/api.ts'
import type { Person } from '../harness.ts'
import { type LinksWorld, openOn, type Picture, refused, startLinks } from './links-world.ts'

let world: LinksWorld
let ada: Person
let picture: Picture
beforeAll(async () => {
  world = await startLinks()
  ada = await world.person()
  picture = await world.picture(ada, 'private')
}, 60_000)
afterAll(() => world.close())

const path = () => `${picture.path}/share-links`
const secretOf = (target: string) => target.split('share=')[1] as string

describe('a share link', () => {
  test('serves every variant of its media without an account', async () => {
    const { target } = await world.share(ada, picture)
    expect(await openOn(world.there, target)).toBe('200')
    expect(await openOn(world.there, target, { method: 'HEAD' })).toBe('200')
    const tags = new Set<string | null>()
    for (const variant of ['original', '256', '512', '1024']) {
      const response = await fetch(`${world.there.baseUrl}${target}&variant=${variant}`)
      await response.arrayBuffer()
      expect(response.status).toBe(200)
      tags.add(response.headers.get('etag'))
    }
    expect(tags.size).toBe(4)
    expect(await openOn(world.there, `${target}&variant=2048`)).toBe('422 request.invalid')
    const link = await world.sign(ada, picture)
    expect(await openOn(world.there, `${link}&share=${secretOf(target)}`)).toBe('422 request.invalid')
  })

  test('costs one statement with warm caches, which reads its row', async () => {
    const { target } = await world.share(ada, picture)
    expect(await openOn(world.there, target)).toBe('200')
    await world.there.leased()
    world.statements.length = 0
    expect(await openOn(world.there, target)).toBe('200')
    expect(world.statements).toHaveLength(1)
    world.statements.length = 0
    for (const text of ['', 'x', `${secretOf(target)}A`, secretOf(target).slice(1)]) {
      expect(await openOn(world.there, `/api/v1${picture.path}/content?share=${text}`)).toBe(refused)
    }
    expect(world.statements).toEqual([])
  })

  test('is refused with any other secret and for any other media', async () => {
    const { target } = await world.share(ada, picture)
    const other = await world.picture(ada, 'private')
    expect(await openOn(world.there, target.replace(picture.media, other.media))).toBe(refused)
    const bytes = Buffer.from(secretOf(target), 'base64url')
    const opened: number[] = []
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      const answer = await openOn(world.there, target.replace(secretOf(target), flipped.toString('base64url')))
      if (answer !== refused) opened.push(bit)
    }
    expect(opened).toEqual([])
    expect(await openOn(world.there, target)).toBe('200')
  }, 30_000)

  test('is shown once and stored as a hash, which itself opens nothing', async () => {
    const { id, target } = await world.share(ada, picture, { label: 'for the printer' })
    const secret = Buffer.from(secretOf(target), 'base64url').subarray(16)
    const [row] = await world.sql`select * from share_links where id = ${id}`
    expect(Buffer.from(row?.['secret_hash']).toString('hex')).toBe(createHash('sha256').update(secret).digest('hex'))
    const listed = JSON.stringify((await world.as(ada).get(path())).body)
    for (const text of [secretOf(target), secret.toString('hex')]) {
      expect(listed).not.toContain(text)
      expect(JSON.stringify(row)).not.toContain(text)
    }
    const idBytes = Buffer.from(id.replaceAll('-', ''), 'hex')
    const stolen = Buffer.concat([idBytes, row?.['secret_hash']]).toString('base64url')
    expect(await openOn(world.there, target.replace(secretOf(target), stolen))).toBe(refused)
  })

  test('expires at its time and is then purged', async () => {
    const clock = manualClock(Date.now())
    const app = await world.start({ clock })
    const mine = await world.picture(ada, 'private')
    const lasting = await world.share(ada, mine)
    const { id, target } = await world.share(ada, mine, { expires_in: 600 })
    expect(await openOn(app, target)).toBe('200')
    clock.advance(590_000)
    expect(await openOn(app, target)).toBe('200')
    clock.advance(20_000)
    expect(await openOn(app, target)).toBe(refused)
    const idsOf = async () =>
      (await world.sql`select id from share_links where media_id = ${mine.media}`).map((row) => row['id'])
    expect(await idsOf()).toContain(id)
    await app.services.shareLinks.purge()
    expect(await idsOf()).toEqual([lasting.id])
    expect(await openOn(app, lasting.target)).toBe('200')
  })

  test('is created, listed and removed only with the share action', async () => {
    const shown = await world.picture(ada, 'team-only')
    const [viewer, editor, stranger] = [await world.person(), await world.person(), await world.person()]
    await world.grantByTeam(ada, shown.project, viewer, 'viewer')
    await world.grantByTeam(ada, shown.project, editor, 'editor')
    const created = await world.share(editor, shown, { label: 'to show' })
    const attempts = (person: Person) => [
      () => world.as(person).post(`${shown.path}/share-links`, {}),
      () => world.as(person).get(`${shown.path}/share-links`),
      () => world.as(person).delete(`${shown.path}/share-links/${created.id}`),
    ]
    for (const [person, code] of [
      [viewer, 'access.denied'],
      [stranger, 'media.not_found'],
    ] as const) {
      for (const attempt of attempts(person)) expect((await attempt()).body.code).toBe(code)
    }
    expect(await openOn(world.there, created.target)).toBe('200')
    const { items } = (await world.as(ada).get(`${shown.path}/share-links`)).body
    expect(items).toEqual([
      { id: created.id, label: 'to show', created_by: editor.id, created_at: expect.any(String), expires_at: null },
    ])
    const elsewhere = await world.as(ada).delete(`${path()}/${created.id}`)
    expect(elsewhere.body.code).toBe('share_link.not_found')
    expect((await world.as(ada).delete(`${shown.path}/share-links/${created.id}`)).status).toBe(204)
    for (const id of [created.id, newId()]) {
      const again = await world.as(ada).delete(`${shown.path}/share-links/${id}`)
      expect(again.body.code).toBe('share_link.not_found')
    }
  }, 30_000)

  test('is limited to 100 per media, even for concurrent requests, without expired and removed ones', async () => {
    const full = await world.picture(ada, 'private')
    // 110 at once may take a loaded machine longer than a request has.
    const create = async (): Promise<Answer> => {
      const answer = await world.as(ada).post(`${full.path}/share-links`, {})
      return answer.body.code === 'request.timeout' ? create() : answer
    }
    const answers = await Promise.all(Array.from({ length: 110 }, create))
    const codes = answers.map(({ status, body }) => (status === 201 ? 201 : body.code))
    expect(codes.filter((code) => code === 201)).toHaveLength(100)
    expect(codes.filter((code) => code === 'share_link.too_many')).toHaveLength(10)
    const [one, two] = answers.filter(({ status }) => status === 201).map(({ body }) => body.id)
    await world.expectStatus(world.as(ada).delete(`${full.path}/share-links/${one}`), 204)
    expect((await create()).status).toBe(201)
    expect((await create()).status).toBe(409)
    await world.sql`
      update share_links set created_at = now() - interval '2 s', expires_at = now() - interval '1 s' where id = ${two}`
    expect((await create()).status).toBe(201)
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const next = cursor === null ? '' : `&cursor=${cursor}`
      const { body } = await world.as(ada).get(`${full.path}/share-links?limit=30${next}`)
      seen.push(...body.items.map(({ id }: { id: string }) => id))
      cursor = body.next_cursor
    } while (cursor !== null)
    expect(seen).toHaveLength(100)
    expect(seen).not.toContain(two)
    expect(seen).toEqual(seen.toSorted().toReversed())
  }, 60_000)
})
