import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createExportStore } from '../../src/identity/export/export-store.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { newPicture } from '../harness/pictures.ts'
import { reapFolder } from '../harness/reaper.ts'
import { readZip } from '../harness/zip.ts'
import { type Answer, type Api, api, type Person, startApp, type TestApp } from '../harness.ts'

/** Part of every text that the person writes: nothing in the database may contain it once the account is closed. */
const mark = 'q7xk2'
const agent = `Agent ${mark}`
const clientAddress = '203.0.113.77'
const password = 'seven green bottles hanging'
const picture = { model: 'local/procedural', parameters: { width: 64, height: 64 } }

let app: TestApp
let client: Api
let sql: Sql
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  app = await startApp({
    config: { mediaDirectory: folder, jobConcurrency: 1, renderWorkers: 1, trustedProxies: ['127.0.0.1'] },
  })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

const ownHeaders = { 'user-agent': agent, 'x-forwarded-for': clientAddress }
const people = { ada: `ada.${mark}@closing.example`, bob: 'bob@closing.example' }
const signUp = async (email: string, display_name: string, sent?: Record<string, string>): Promise<Person> => {
  const input = { email, password, display_name }
  const { status, body } = await client.post('/api/v1/auth/register', input, sent && { headers: sent })
  expect(status).toBe(201)
  const { access_token: token, refresh_token: refreshToken, user } = body
  return { email, password, token, refreshToken, id: user.id, user }
}
const as = ({ token, email }: Person) => {
  const headers = email === people.ada ? ownHeaders : { ...ownHeaders, 'user-agent': 'Agent of Bob' }
  const sending = { token, headers }
  return {
    get: (path: string) => client.get(`/api/v1${path}`, sending),
    post: (path: string, body?: unknown, more: Record<string, string> = {}) =>
      client.post(`/api/v1${path}`, body, { token, headers: { ...headers, ...more } }),
    patch: (path: string, body?: unknown) => client.patch(`/api/v1${path}`, body, sending),
    delete: (path: string) => client.delete(`/api/v1${path}`, sending),
  }
}
const created = async (answer: Promise<Answer>): Promise<{ id: string } & Record<string, string>> => {
  const { status, body } = await answer
  expect([status, body?.code]).toEqual([201, undefined])
  return body
}
const generate = async (
  person: Person,
  prompt: string,
  project_id?: string,
): Promise<{ id: string; media: string }> => {
  const { id } = await created(
    as(person).post(
      '/generations',
      { ...picture, prompt, project_id },
      { 'idempotency-key': prompt.replaceAll(' ', '-') },
    ),
  )
  await until(
    async () => (await as(person).get(`/generations/${id}`)).body.status === 'completed',
    `${prompt} is completed`,
  )
  return { id, media: (await as(person).get(`/generations/${id}/media`)).body.items[0].id }
}
const shaOf = async (media: string): Promise<string> =>
  (await sql<{ sha256: string }[]>`select sha256 from media where id = ${media}`)[0]?.sha256 ?? ''

/** The tables, with how many of their rows contain a text. */
const tablesWith = async (text: string): Promise<string[]> => {
  const tables = await sql<{ name: string }[]>`
    select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'm') order by relname`
  const found: string[] = []
  for (const { name } of tables) {
    const { count } = await sql`select from ${sql(name)} t where t::text ilike ${`%${text}%`}`
    if (count > 0) found.push(`${name}: ${count}`)
  }
  return found
}

describe('an account with everything', () => {
  let ada: Person
  let bob: Person
  let team: string
  let bobsProject: string
  let ownPrivate: string
  let ownShared: string
  let made: Record<'alone' | 'private' | 'shared' | 'ofBob' | 'bobs', { id: string; media: string }>
  let upload: { id: string; bytes: Uint8Array }
  let shareUrl: string

  beforeAll(async () => {
    ada = await signUp(people.ada, `Ada ${mark}`, ownHeaders)
    bob = await signUp(people.bob, 'Bob')
    team = (await created(as(ada).post('/teams', { name: 'Keepers' }))).id
    const bobsTeam = (await created(as(bob).post('/teams', { name: 'Others' }))).id
    const invitation = await created(as(ada).post(`/teams/${team}/invitations`, { email: bob.email, role: 'admin' }))
    expect((await as(bob).post('/teams/invitations/accept', { secret: invitation['secret'] })).status).toBeLessThan(300)
    const toAda = await created(as(bob).post(`/teams/${bobsTeam}/invitations`, { email: ada.email, role: 'editor' }))
    expect((await as(ada).post('/teams/invitations/accept', { secret: toAda['secret'] })).status).toBeLessThan(300)

    ownPrivate = (await created(as(ada).post('/projects', { name: `Diary ${mark}` }))).id
    ownShared = (await created(as(ada).post('/projects', { name: 'Lighthouses', visibility: 'team-only' }))).id
    await created(as(ada).post(`/projects/${ownShared}/teams`, { team_id: team, access_level: 'write' }))
    bobsProject = (await created(as(bob).post('/projects', { name: 'Harbours', visibility: 'team-only' }))).id
    await created(as(bob).post(`/projects/${bobsProject}/teams`, { team_id: bobsTeam, access_level: 'write' }))

    made = {
      alone: await generate(ada, `alone ${mark}`),
      private: await generate(ada, `private ${mark}`, ownPrivate),
      shared: await generate(ada, 'a shared lighthouse', ownShared),
      ofBob: await generate(ada, 'a harbour', bobsProject),
      bobs: await generate(bob, 'a ship', ownShared),
    }
    const bytes = new Uint8Array(await newPicture('png'))
    const { body } = await client.post('/api/v1/media', bytes, {
      token: ada.token,
      headers: { ...ownHeaders, 'content-type': 'image/png' },
    })
    upload = { id: body.id, bytes }
    const link = await created(as(ada).post(`/media/${made.shared.media}/share-links`, { label: `Label ${mark}` }))
    shareUrl = link['url'] ?? ''
    await as(ada).post(`/generations/${made.bobs.id}/favorite`, { favorite: true })
    await sql`
      insert into linked_identities (id, user_id, provider_id, issuer, subject, email, created_at, last_used_at)
      values (gen_random_uuid(), ${ada.id}, 'acme', 'https://login.example', ${`subject ${mark}`}, ${ada.email}, now(), now())`
    await sql`
      insert into former_addresses (email, user_id, expires_at)
      values (${`former.${mark}@closing.example`}, ${ada.id}, now() + interval '1 day')`
    await sql`
      insert into webhooks (id, team_id, url, events, enabled, secret, responsible_id, created_at, updated_at)
      values (gen_random_uuid(), ${team}, 'https://hooks.closing.example', '{team.member_added}', false, '\\x00', ${ada.id}, now(), now())`
    for (let attempt = 0; attempt < 10; attempt += 1)
      await client.post(
        '/api/v1/auth/login',
        { email: ada.email, password: 'not this one' },
        { headers: { 'x-forwarded-for': '198.51.100.9' } },
      )
  })

  describe('its export', () => {
    test('is one archive with its rows and the bytes of its media, and with no secret and nothing of others', async () => {
      const response = await fetch(`${app.baseUrl}/api/v1/auth/me/export`, {
        method: 'POST',
        headers: { ...ownHeaders, authorization: `Bearer ${ada.token}` },
      })
      expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/zip'])
      expect(response.headers.get('content-disposition')).toMatch(/^attachment; filename="velro-\d{4}-\d\d-\d\d\.zip"$/)
      const files = readZip(Buffer.from(await response.arrayBuffer()))
      const json = (name: string) => JSON.parse(files.get(`${name}.json`)?.toString() ?? '')
      expect([...files.keys()].filter((name) => !name.startsWith('media/')).toSorted()).toEqual(
        [
          'account',
          'audit',
          'authenticator_apps',
          'credits',
          'favorites',
          'feature_flags',
          'former_addresses',
          'generations',
          'granted_projects',
          'incidents',
          'invitations',
          'known_devices',
          'linked_identities',
          'media',
          'notices',
          'passkeys',
          'projects',
          'recovery_codes',
          'sent_invitations',
          'service_keys',
          'sessions',
          'share_links',
          'teams',
          'webhooks',
        ].map((name) => `${name}.json`),
      )
      expect(json('account')).toMatchObject([
        { id: ada.id, email: ada.email, display_name: `Ada ${mark}`, plan: 'free' },
      ])
      expect(json('sessions')).toMatchObject([{ user_agent: agent, address: clientAddress }])
      expect(json('notices')).toMatchObject([{ kind: 'sign_in_failures' }])
      expect(
        json('teams')
          .map(({ name }: { name: string }) => name)
          .toSorted(),
      ).toEqual(['Keepers', 'Others'])
      expect(json('invitations')).toMatchObject([{ status: 'accepted', role: 'editor' }])
      expect(json('former_addresses')).toMatchObject([{ email: `former.${mark}@closing.example` }])
      expect(json('known_devices')).toHaveLength(1)
      expect(json('sent_invitations')).toMatchObject([{ team_id: team, role: 'admin', status: 'accepted' }])
      expect(json('granted_projects')).toEqual([
        { project_id: ownShared, grants: [{ team_id: team, access_level: 'write' }] },
      ])
      expect(json('webhooks')).toMatchObject([{ team_id: team, events: ['team.member_added'] }])
      expect(json('projects')).toHaveLength(2)
      expect(json('generations').map(({ prompt }: { prompt: string }) => prompt)).toEqual([
        `alone ${mark}`,
        `private ${mark}`,
        'a shared lighthouse',
        'a harbour',
      ])
      expect(json('favorites')).toMatchObject([{ generation_id: made.bobs.id }])
      expect(json('share_links')).toMatchObject([{ label: `Label ${mark}` }])
      expect(json('credits').length).toBeGreaterThan(4)
      expect(json('media')).toHaveLength(5)
      expect([...files.keys()].filter((name) => name.startsWith('media/'))).toHaveLength(5)
      for (const [name, bytes] of files) {
        if (!name.startsWith('media/')) continue
        const sha = await shaOf(name.slice('media/'.length).replace(/\.\w+$/, ''))
        expect([name, createHash('sha256').update(bytes).digest('hex')]).toEqual([name, sha])
      }
      const texts = [...files].filter(([name]) => name.endsWith('.json')).map(([, bytes]) => bytes.toString())
      for (const secret of [
        'argon2',
        'token_hash',
        'secret_hash',
        people.bob,
        'a ship',
        shareUrl.split('share=')[1] ?? '-',
      ])
        expect(texts.join('')).not.toContain(secret)
    })

    test('is one at a time for an account, and ends with the session', async () => {
      const { body } = await client.post('/api/v1/auth/login', { email: ada.email, password }, { headers: ownHeaders })
      const start = (token: string) =>
        fetch(`${app.baseUrl}/api/v1/auth/me/export`, {
          method: 'POST',
          headers: { ...ownHeaders, authorization: `Bearer ${token}` },
        })
      const first = await start(body.access_token)
      const reader = first.body?.getReader()
      const second = await start(body.access_token)
      expect([second.status, ((await second.json()) as { code: string }).code]).toEqual([
        429,
        'identity.export_under_way',
      ])
      await reader?.cancel()
      await until(async () => {
        const again = await start(body.access_token)
        await again.body?.cancel()
        return again.status === 200
      }, 'an export can begin once the first was cancelled')
      await client.post('/api/v1/auth/logout', undefined, { token: body.access_token, headers: ownHeaders })
      expect((await start(body.access_token)).status).toBe(401)
    })
  })

  describe('its closing', () => {
    const objects = () => createDiskObjects({ directory: folder })
    const gone: string[] = []

    test('is refused while it owns a team with another member', async () => {
      const { status, body } = await as(ada).delete('/auth/me')
      expect([status, body.code, body.teams]).toEqual([409, 'identity.owns_teams', [{ id: team, name: 'Keepers' }]])
      expect((await as(ada).get(`/generations/${made.alone.id}`)).status).toBe(200)
    })

    test('leaves no table with its address, its name, its texts, its network address or its device', async () => {
      expect((await tablesWith(mark)).length).toBeGreaterThan(5)
      for (const media of [made.alone.media, made.private.media, upload.id]) gone.push(await shaOf(media))
      expect((await as(ada).post(`/teams/${team}/transfer`, { user_id: bob.id })).status).toBe(200)
      expect((await as(ada).delete('/auth/me')).status).toBe(204)
      for (const text of [mark, ada.email]) expect(await tablesWith(text)).toEqual([])
      const { count } = await sql`
        select from sessions where user_id = ${ada.id} and (user_agent <> '' or address <> '')`
      expect(count).toBe(0)
      const [row] =
        await sql`select email, password_hash, display_name, status, role, limits from users where id = ${ada.id}`
      expect(row).toEqual({
        email: null,
        password_hash: null,
        display_name: '',
        status: 'deleted',
        role: 'user',
        limits: null,
      })
    })

    test('deletes its private project, the generations there and outside of projects, and its uploads with their bytes', async () => {
      for (const id of [made.alone.id, made.private.id])
        expect((await sql`select from generations where id = ${id}`).count).toBe(0)
      expect((await sql`select from projects where id = ${ownPrivate}`).count).toBe(0)
      expect((await sql`select from account_erasures`).count).toBe(0)
      for (const sha256 of gone)
        await until(
          async () => (await objects().head(objectKey(sha256))) === undefined,
          `the object ${sha256} is deleted`,
        )
    })

    test('leaves what others work with: a shared project and the pictures in it, without a name', async () => {
      for (const { id, media } of [made.shared, made.bobs]) {
        expect((await as(bob).get(`/generations/${id}`)).status).toBe(200)
        expect((await as(bob).get(`/media/${media}/content`)).status).toBe(200)
      }
      expect((await as(bob).get(`/generations/${made.ofBob.id}`)).body).toMatchObject({
        owner_id: ada.id,
        prompt: 'a harbour',
      })
      expect((await as(bob).get(`/projects/${ownShared}`)).status).toBe(200)
      expect((await as(bob).get(`/teams/${team}`)).body.owner_id).toBe(bob.id)
    })

    test('ends its share links, sign-ins and failed sign-ins, and frees its address', async () => {
      expect((await client.get(new URL(shareUrl).pathname + new URL(shareUrl).search)).status).toBeGreaterThanOrEqual(
        400,
      )
      expect((await as(ada).get('/auth/me')).status).toBe(401)
      expect((await sql`select from sign_in_failures where failures >= 10`).count).toBe(0)
      const again = await signUp(people.ada, 'Ada again')
      expect(again.id).not.toBe(ada.id)
      expect((await as(again).get('/generations')).body.items).toEqual([])
    })
  })
})

test('an account that was closed while its instance was killed is erased by the background task, in batches', async () => {
  const person = await signUp('late@closing.example', 'Late')
  const { id: project } = await created(as(person).post('/projects', { name: 'Large' }))
  await sql`
    insert into generations (id, owner_id, project_id, model, prompt, status)
    select gen_random_uuid(), ${person.id}, case when n % 2 = 0 then ${project}::uuid end, 'm', 'left behind', 'completed'
      from generate_series(1, 450) n`
  await sql`delete from team_members where user_id = ${person.id}`
  await sql`update users set status = 'deleted', email = null, password_hash = null, display_name = '' where id = ${person.id}`
  await sql`insert into account_erasures (user_id, requested_at) values (${person.id}, now())`
  await Promise.all([app.services.identity.erasePending(), app.services.identity.erasePending()])
  await app.services.identity.erasePending()
  expect((await sql`select from generations where owner_id = ${person.id}`).count).toBe(0)
  expect((await sql`select from projects where owner_id = ${person.id}`).count).toBe(0)
  expect((await sql`select from account_erasures where user_id = ${person.id}`).count).toBe(0)
})

/**
 * Each column that names an account, and what closing does with it. A new table needs a line here: `erased`, or `id` where the bare
 * id of an account without a name stays.
 */
const columnsOfPeople: Readonly<Record<string, 'erased' | 'id'>> = {
  'account_erasures.user_id': 'erased',
  'blocks.created_by': 'id',
  'blocks.user_id': 'erased',
  'credit_balances.user_id': 'id',
  'credit_ledger.created_by': 'id',
  'credit_ledger.user_id': 'id',
  'feature_flag_versions.changed_by': 'id',
  'feature_flags.updated_by': 'id',
  'flags.updated_by': 'id',
  'former_addresses.user_id': 'erased',
  'generation_favorites.user_id': 'erased',
  'generations.owner_id': 'id',
  'idempotency_keys.user_id': 'erased',
  'incidents.assignee_id': 'id',
  'incidents.closed_by': 'id',
  'incidents.opened_by': 'id',
  'known_devices.user_id': 'erased',
  'linked_identities.user_id': 'erased',
  'media.owner_id': 'id',
  'notices.user_id': 'erased',
  'one_time_tokens.user_id': 'erased',
  'passkeys.user_id': 'erased',
  'pending_welcomes.user_id': 'erased',
  'project_grants.granted_by': 'id',
  'projects.owner_id': 'id',
  'recovery_codes.user_id': 'erased',
  'service_keys.created_by': 'id',
  'restrictions.set_by': 'id',
  'sessions.user_id': 'id',
  'share_links.created_by': 'erased',
  'team_invitations.invited_by': 'id',
  'team_members.user_id': 'erased',
  'totp_factors.user_id': 'erased',
  'webhooks.responsible_id': 'id',
}

test('every column that refers to an account is known to the closing of accounts', async () => {
  const rows = await sql<{ name: string }[]>`
    select format('%s.%s', conrelid::regclass, a.attname) as name
      from pg_constraint c cross join unnest(c.conkey) k join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k
     where c.contype = 'f' and c.confrelid = 'users'::regclass order by 1`
  expect(rows.map(({ name }) => name)).toEqual(Object.keys(columnsOfPeople).toSorted())
})

/** The part of the archive of an account with the rows of such a column, or the reason why no part has them. */
const exportedColumns: Readonly<Record<keyof typeof columnsOfPeople, string>> = {
  'account_erasures.user_id': 'none: only of closed accounts',
  'blocks.created_by': 'none: what an operator did to others',
  'blocks.user_id': 'none: whose owner cannot sign in while it lasts',
  'credit_balances.user_id': 'credits',
  'credit_ledger.created_by': 'none: grants by an operator to others',
  'credit_ledger.user_id': 'credits',
  'feature_flag_versions.changed_by': 'none: a setting of the service',
  'feature_flags.updated_by': 'none: a setting of the service',
  'flags.updated_by': 'none: a setting of the service',
  'former_addresses.user_id': 'former_addresses',
  'generation_favorites.user_id': 'favorites',
  'generations.owner_id': 'generations',
  'idempotency_keys.user_id': 'none: responses about the rows of the other parts, for a day',
  'incidents.assignee_id': 'incidents',
  'incidents.closed_by': 'incidents',
  'incidents.opened_by': 'incidents',
  'known_devices.user_id': 'known_devices',
  'linked_identities.user_id': 'linked_identities',
  'media.owner_id': 'media',
  'notices.user_id': 'notices',
  'one_time_tokens.user_id': 'none: hashes of tokens, for days',
  'passkeys.user_id': 'passkeys',
  'pending_welcomes.user_id': 'none: credits that are not given yet',
  'project_grants.granted_by': 'granted_projects',
  'projects.owner_id': 'projects',
  'recovery_codes.user_id': 'recovery_codes',
  'service_keys.created_by': 'service_keys',
  'restrictions.set_by': 'none: a setting of the service',
  'sessions.user_id': 'sessions',
  'share_links.created_by': 'share_links',
  'team_invitations.invited_by': 'sent_invitations',
  'team_members.user_id': 'teams',
  'totp_factors.user_id': 'authenticator_apps',
  'webhooks.responsible_id': 'webhooks',
}

test('every column that refers to an account is in its export, or has a reason not to be', () => {
  expect(Object.keys(exportedColumns).toSorted()).toEqual(Object.keys(columnsOfPeople).toSorted())
  const parts = [...Object.keys(createExportStore(sql).parts), 'media']
  for (const [column, part] of Object.entries(exportedColumns))
    if (!/^none: \w.{9}/.test(part)) expect([column, parts]).toEqual([column, expect.arrayContaining([part])])
})
