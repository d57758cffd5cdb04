import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/generations'
const pictures = 50

const clock = manualClock(Date.now())
const statements: string[] = []
let app: TestApp
let sql: Sql
let client: Api
let ada: Person
let bea: Person
let project: string
let calls = 0
beforeAll(async () => {
  app = await startApp({
    clock,
    config: { jobConcurrency: 1, renderWorkers: 1, dbConnections: 40 },
    onStatement: (text) => void statements.push(text),
  })
  sql = connectOnce(app.connection)
  client = api(app.baseUrl)
  ada = await register(client)
  bea = await register(client)
  project = (await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: ada.token })).body.id
  const order = { model: 'local/procedural', prompt: 'p', project_id: project, parameters: { width: 64, height: 64 } }
  const { id } = (await client.post(path, order, { token: ada.token })).body
  const isDone = async () => (await client.get(`${path}/${id}`, { token: ada.token })).body.status === 'completed'
  await until(isDone, 'the first picture is completed')
  // The others are of the same bytes.
  const ids = Array.from({ length: pictures - 1 }, newId)
  await sql`
    insert into generations (id, owner_id, project_id, status, model, prompt, finished_at)
    select made, ${ada.id}, ${project}, 'completed', 'local/procedural', 'p', now() from unnest(${ids}::uuid[]) made`
  await sql`
    insert into media (id, generation_id, owner_id, position, sha256)
    select other, made, ${ada.id}, 0, (select sha256 from media where generation_id = ${id})
      from unnest(${ids}::uuid[], ${ids.map(() => newId())}::uuid[]) as pairs (made, other)`
  await app.caughtUp()
}, 60_000)
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

/** Later requests of the same session. */
const renew = async (person: Person): Promise<Person> => {
  const { body } = await client.post('/api/v1/auth/refresh', { refresh_token: person.refreshToken })
  return { ...person, token: body.access_token, refreshToken: body.refresh_token }
}
const get = (target: string, { token }: Person = bea) => {
  calls += 1
  return client.get(target, { token })
}
type Item = { id: string; media: { id: string; links?: Record<string, string>; links_expire_at?: string }[] }
const list = async (query: string, person = bea): Promise<Item[]> => {
  const { status, body } = await get(`${path}?limit=100&${query}`, person)
  expect(status).toBe(200)
  return body.items
}
const linkOf = (item: Item | undefined, variant = '256') => item?.media[0]?.links?.[variant] ?? ''

describe('a list of generations', () => {
  test('has 50 pictures with working links in one call', async () => {
    await list('include=media')
    calls = 0
    statements.length = 0
    const items = await list('include=media&links=256,original')
    expect([items.length, calls]).toEqual([pictures, 1])
    expect(statements.length).toBe(2)
    const links = items.flatMap(({ media }) => media.flatMap(({ links = {} }) => Object.values(links)))
    expect(links).toHaveLength(2 * pictures)
    const answers = await Promise.all(
      links.map(async (link) => {
        const response = await fetch(link)
        return `${response.status} ${response.headers.get('content-type')} ${(await response.arrayBuffer()).byteLength > 0}`
      }),
    )
    expect([...new Set(answers)]).toEqual(['200 image/webp true'])
  })

  test('has the media without links, or the generations alone, where no more is asked for', async () => {
    const [item] = await list('include=media')
    expect(item?.media).toHaveLength(1)
    expect(item?.media[0]).not.toHaveProperty('links')
    expect((await list(''))[0]).not.toHaveProperty('media')
    const one = await get(`${path}/${item?.id}?include=media&links=1024`)
    expect(Object.keys(one.body.media[0].links)).toEqual(['1024'])
    expect((await get(`${path}/${item?.id}`)).body).not.toHaveProperty('media')
  })

  test('has no media of a generation that is not completed', async () => {
    const queued = newId()
    await sql`
      insert into generations (id, owner_id, project_id, model, prompt)
      values (${queued}, ${ada.id}, ${project}, 'local/procedural', 'p')`
    const items = await list('include=media&links=256')
    expect(items.find(({ id }) => id === queued)?.media).toEqual([])
    await sql`delete from generations where id = ${queued}`
  })

  test('of the ancestors of a generation has their media and links too, of those that the caller may read', async () => {
    const [shown, hidden] = await list('include=media')
    const child = newId()
    await sql`
      insert into generations (id, owner_id, project_id, status, model, prompt, ancestor_ids, intent)
      values (${child}, ${ada.id}, ${project}, 'completed', 'local/procedural', 'p',
              ${[shown?.id ?? '', hidden?.id ?? '']}::uuid[], 'fork')`
    await sql`update generations set project_id = null where id = ${hidden?.id ?? ''}`
    await app.caughtUp()
    const ancestors = `${path}/${child}/provenance`
    const { body } = await get(`${ancestors}?include=media&links=256`)
    expect([body.hidden, body.items.map(({ id }: Item) => id)]).toEqual([1, [shown?.id]])
    expect((await fetch(linkOf(body.items[0]))).status).toBe(200)
    expect((await get(`${ancestors}?include=media`)).body.items[0].media).toEqual(shown?.media)
    expect((await get(ancestors)).body.items[0]).not.toHaveProperty('media')
    expect((await get(`${ancestors}?links=256`)).body.code).toBe('request.invalid')
    await sql`delete from generations where id = ${child}`
    await sql`update generations set project_id = ${project} where id = ${hidden?.id ?? ''}`
    await app.caughtUp()
  })

  test.each([
    'links=256',
    'include=links',
    'include=media&links=',
    'include=media&links=2',
    'include=media&links=256,,512',
  ])('is refused with %s', async (query) => {
    expect((await get(`${path}?${query}`)).body.code).toBe('request.invalid')
  })
})

describe('the links of a list', () => {
  test('stay the same for a session for five minutes at a time, and differ between sessions', async () => {
    const first = linkOf((await list('include=media&links=256'))[0])
    expect(linkOf((await list('include=media&links=256,512'))[0])).toBe(first)
    expect(linkOf((await list('include=media&links=256', ada))[0])).not.toBe(first)
    // Where five minutes begin depends on the session.
    const changes: number[] = []
    let last = first
    for (let second = 0; second < 900; second += 10) {
      clock.advance(10_000)
      if (second === 600) [ada, bea] = [await renew(ada), await renew(bea)]
      const link = linkOf((await list('include=media&links=256'))[0])
      if (link !== last) changes.push(second)
      last = link
    }
    expect(changes).toHaveLength(3)
    expect([(changes[1] ?? 0) - (changes[0] ?? 0), (changes[2] ?? 0) - (changes[1] ?? 0)]).toEqual([300, 300])
    const replaced = await fetch(first)
    expect([replaced.status, (await replaced.arrayBuffer()).byteLength > 0]).toEqual([200, true])
  }, 60_000)

  test('let a browser find what it has stored', async () => {
    const link = linkOf((await list('include=media&links=256'))[0])
    const response = await fetch(link)
    await response.arrayBuffer()
    const again = await fetch(link, { headers: { 'if-none-match': response.headers.get('etag') ?? '' } })
    expect([response.headers.get('cache-control'), again.status]).toEqual(['private, no-cache', 304])
  })

  test('work for an hour or more, and end with the right to download', async () => {
    const [item] = await list('include=media&links=256')
    const forMs = Date.parse(item?.media[0]?.links_expire_at ?? '') - app.services.clock.now()
    expect(forMs).toBeGreaterThan(3_600_000)
    expect(forMs).toBeLessThanOrEqual(3_900_000)
    const set = (visibility: string) =>
      client.patch(`/api/v1/projects/${project}`, { visibility }, { token: ada.token })
    await set('private')
    const refused = await fetch(linkOf(item))
    expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([403, 'media.link_refused'])
    expect(await list('include=media&links=256')).toEqual([])
    await set('public')
    expect((await fetch(linkOf(item))).status).toBe(200)
  })

  test('are added to media and uploads too', async () => {
    const [item] = await list('include=media')
    const of = await get(`${path}/${item?.id}/media?links=512`)
    const one = await get(`/api/v1/media/${item?.media[0]?.id}?links=512`)
    expect([one.status, one.body]).toEqual([200, of.body.items[0]])
    expect((await fetch(one.body.links['512'])).status).toBe(200)
    const uploaded = await client.post('/api/v1/media', new Uint8Array(await newPicture()), {
      token: ada.token,
      headers: { 'content-type': 'image/png' },
    })
    const uploads = await get('/api/v1/media?links=original', ada)
    expect(uploads.body.items[0].id).toBe(uploaded.body.id)
    expect((await fetch(uploads.body.items[0].links.original)).headers.get('content-type')).toBe('image/png')
    expect((await get('/api/v1/media?limit=1&links=x', ada)).body.code).toBe('request.invalid')
  })
})

describe('a batch of links', () => {
  const make = (body: unknown, person = bea) => client.post('/api/v1/media/links', body, { token: person.token })

  test('has a working link for each of a hundred items, in their order, with one statement at most', async () => {
    const items = await list('include=media')
    const wanted = items.flatMap(({ media }) =>
      ['256', 'original'].map((variant) => ({ media_id: media[0]?.id, variant })),
    )
    expect(wanted).toHaveLength(100)
    const fresh = await startApp({
      clock,
      connection: app.connection,
      onStatement: (text) => void statements.push(text),
    })
    await fresh.services.database.warm()
    await api(fresh.baseUrl).get('/api/v1/auth/me', { token: bea.token })
    statements.length = 0
    const { status, body } = await api(fresh.baseUrl).post(
      '/api/v1/media/links',
      { links: wanted },
      { token: bea.token },
    )
    expect([status, statements.length]).toEqual([200, 1])
    await fresh.close()
    expect(
      body.items.map(({ media_id, variant }: { media_id: string; variant: string }) => ({ media_id, variant })),
    ).toEqual(wanted)
    for (const { url } of body.items.slice(0, 10)) {
      const { pathname, search } = new URL(url)
      expect((await fetch(app.baseUrl + pathname + search)).status).toBe(200)
    }
  })

  test('refuses what the caller may not download as what does not exist, and makes the others', async () => {
    const hidden = await client.post('/api/v1/media', new Uint8Array(await newPicture()), {
      token: ada.token,
      headers: { 'content-type': 'image/png' },
    })
    const [item] = await list('include=media')
    const ids = [hidden.body.id, newId(), item?.media[0]?.id, hidden.body.id]
    const { body } = await make({ links: ids.map((media_id) => ({ media_id, method: 'HEAD' })), expires_in: 60 })
    const none = { variant: 'original', method: 'HEAD', url: null, expires_at: null, refusal: 'media.not_found' }
    expect(body.items).toEqual([
      { media_id: ids[0], ...none },
      { media_id: ids[1], ...none },
      { media_id: ids[2], ...none, url: expect.any(String), expires_at: expect.any(String), refusal: null },
      { media_id: ids[3], ...none },
    ])
    expect((await fetch(body.items[2].url, { method: 'HEAD' })).status).toBe(200)
    expect((await fetch(body.items[2].url)).status).toBe(403)
  })

  test('is of one to a hundred items', async () => {
    const [item] = await list('include=media')
    const link = { media_id: item?.media[0]?.id }
    for (const [links, status] of [
      [[], 422],
      [[link], 200],
      [Array(100).fill(link), 200],
      [Array(101).fill(link), 422],
      [[{ ...link, variant: '2' }], 422],
      [[{ media_id: 'x' }], 422],
      [[{ ...link, more: 1 }], 422],
    ] as const)
      expect([links.length, (await make({ links })).status]).toEqual([links.length, status])
  })
})
