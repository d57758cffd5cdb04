import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomUUID } from 'node:crypto'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'
import { type Document, nameOf, routesOf, unknownId } from './black-box/document.ts'

/*
 * Every route of the document, called as everybody there is, held against a table written by hand from what the
 * specification says of who may do what. Nothing here is computed by the code under test.
 */

const roles = ['owner', 'admin', 'editor', 'contributor', 'viewer'] as const satisfies readonly TeamRole[]
/** Who has no way in: each of these is answered like nobody at all. */
const outsiders = ['nobody', 'expired', 'forged', 'suspended', 'closed'] as const
/** Who is signed in. `maker` owns the project, `other` a private one the team has a sleeping grant on. */
const people = ['maker', 'other', 'stranger', 'operator', ...roles] as const
type Name = (typeof people)[number]
/** `service`: a key that has another scope than the one asked for. */
type Subject = (typeof outsiders)[number] | Name | 'service'

type Action = 'read' | 'download' | 'create' | 'write' | 'share' | 'delete' | 'admin'
const all: readonly Action[] = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']
const none: readonly Action[] = []
const byLevelWrite = {
  owner: ['read', 'download', 'create', 'write', 'share'],
  admin: ['read', 'download', 'create', 'write', 'share'],
  editor: ['read', 'download', 'create', 'write', 'share'],
  contributor: ['read', 'download', 'create'],
  viewer: ['read', 'download'],
} as const satisfies Record<TeamRole, readonly Action[]>

/** What each may do to the team-only project that the team has a grant of level write on, and to the private one. */
const mayDo: Record<'shared' | 'hidden', Record<Name, readonly Action[]>> = {
  shared: { ...byLevelWrite, maker: all, other: none, stranger: none, operator: none },
  hidden: {
    maker: none,
    other: all,
    stranger: none,
    operator: none,
    owner: none,
    admin: none,
    editor: none,
    contributor: none,
    viewer: none,
  },
}

type Things = {
  project: string
  generation: string
  /** Of a generation in it that is completed. */
  media: string
  shareLink: string
  /** A project of `other` and what is in it. */
  hiddenProject: string
  hiddenGeneration: string
  hiddenMedia: string
  hiddenShareLink: string
  team: string
  /** Without a grant; `maker` owns it. */
  spareTeam: string
  invitation: string
  serviceKey: string
  session: string
  ids: Record<Name, string>
}

type Call = {
  path?: Record<string, string>
  query?: string
  body?: Record<string, unknown>
  /** A picture instead of a body. */
  picture?: Uint8Array
}
/** What a call is about and what it takes. */
type Need =
  | { needs: 'nothing' }
  | { needs: 'session' }
  | { needs: 'operator' }
  | { needs: 'service' }
  /** Whoever is signed in is let in, and finds nothing there: the thing is `of` somebody else. */
  | { needs: 'own'; of?: Name; thing?: (things: Things) => string; otherwise: string }
  | { needs: Action; on: 'project' | 'generation' | 'media'; ownerOnly?: true }
  | { needs: 'role'; atLeast: TeamRole; otherwise?: Partial<Record<TeamRole, string>> }
type Entry = Need & {
  call?: (things: Things) => Call
  /** Services may come in as well, with the scope. */
  asks?: true
  /** Done to the caller's own account or session: tried by outsiders alone. */
  drastic?: true
}

const inProject = (more: (things: Things) => Call = () => ({})) => ({
  call: (things: Things): Call => ({ path: { project_id: things.project }, ...more(things) }),
})
const inGrant = (more: Call = {}) => ({
  call: ({ project, team }: Things): Call => ({ path: { project_id: project, team_id: team }, ...more }),
})
const onMedia = (query = '') => ({ call: ({ media }: Things): Call => ({ path: { media_id: media }, query }) })
const forMedia = (body: Record<string, unknown>) => ({
  call: ({ media }: Things): Call => ({ path: { media_id: media }, body }),
})
const onGeneration = (more: (things: Things) => Call = () => ({})) => ({
  call: (things: Things): Call => ({ path: { generation_id: things.generation }, ...more(things) }),
})
const inTeam = (more: (things: Things) => Call = () => ({})) => ({
  call: (things: Things): Call => {
    const { path, ...rest } = more(things)
    return { path: { team_id: things.team, ...path }, ...rest }
  },
})
const onStranger = (more: Call = {}) => ({
  call: ({ ids }: Things): Call => ({ path: { user_id: ids.stranger }, ...more }),
})
const saying = (body: Record<string, unknown>) => ({ call: (): Call => ({ body }) })
const asked = { model: 'local/procedural', prompt: 'p' }
const secret = 'A'.repeat(43)
const picture = await newPicture()
const evaluation = (id: string) => ({
  subject: { type: 'user', id: unknownId },
  action: { name: 'read' },
  resource: { type: 'project', id },
})

const table: Record<string, readonly Entry[]> = {
  'GET /health': [{ needs: 'nothing' }],
  'GET /ready': [{ needs: 'nothing' }],
  'GET /.well-known/jwks.json': [{ needs: 'nothing' }],
  'GET /.well-known/authzen-configuration': [{ needs: 'nothing' }],

  'POST /api/v1/auth/register': [{ needs: 'nothing', ...saying({ email: 'x@example.com', password: 'password' }) }],
  'POST /api/v1/auth/login': [{ needs: 'nothing', ...saying({ email: 'x@example.com', password: 'not theirs' }) }],
  'POST /api/v1/auth/refresh': [{ needs: 'nothing', ...saying({ refresh_token: secret }) }],
  'POST /api/v1/auth/logout': [{ needs: 'session', drastic: true }],
  'POST /api/v1/auth/logout-all': [{ needs: 'session', drastic: true }],
  'GET /api/v1/auth/me': [{ needs: 'session' }],
  'PATCH /api/v1/auth/me': [{ needs: 'session', ...saying({ display_name: 'Somebody' }) }],
  'DELETE /api/v1/auth/me': [{ needs: 'session', drastic: true }],
  'POST /api/v1/auth/password': [
    { needs: 'session', drastic: true, ...saying({ current_password: 'not mine', new_password: 'a phrase of mine' }) },
  ],
  'GET /api/v1/auth/sessions': [{ needs: 'session' }],
  'DELETE /api/v1/auth/sessions/{session_id}': [
    {
      needs: 'own',
      of: 'maker',
      thing: ({ session }) => session,
      otherwise: '404 session.not_found',
      call: ({ session }) => ({ path: { session_id: session } }),
    },
  ],

  'POST /api/v1/authorization/check': [
    {
      needs: 'session',
      asks: true,
      call: ({ project }) => ({ body: { action: 'read', resource: { type: 'project', id: project } } }),
    },
  ],
  'POST /api/v1/authorization/check/batch': [
    {
      needs: 'session',
      asks: true,
      call: ({ project }) => ({ body: { checks: [{ action: 'read', resource: { type: 'project', id: project } }] } }),
    },
  ],
  'POST /api/v1/authorization/explain': [
    {
      needs: 'session',
      asks: true,
      call: ({ project }) => ({ body: { action: 'read', resource: { type: 'project', id: project } } }),
    },
  ],
  'GET /api/v1/authorization/accessible': [
    { needs: 'session', asks: true, call: () => ({ query: '?type=project&action=read' }) },
  ],
  'GET /api/v1/authorization/who': [
    {
      needs: 'share',
      on: 'project',
      asks: true,
      call: ({ project }) => ({ query: `?type=project&id=${project}&action=read` }),
    },
    {
      needs: 'share',
      on: 'generation',
      asks: true,
      call: ({ generation }) => ({ query: `?type=generation&id=${generation}&action=read` }),
    },
  ],
  'POST /access/v1/evaluation': [{ needs: 'service', call: ({ project }) => ({ body: evaluation(project) }) }],
  'POST /access/v1/evaluations': [
    { needs: 'service', call: ({ project }) => ({ body: { evaluations: [evaluation(project)] } }) },
  ],

  'POST /api/v1/service-keys': [{ needs: 'operator', ...saying({ name: 'k', scopes: ['authorization:check'] }) }],
  'GET /api/v1/service-keys': [{ needs: 'operator' }],
  'DELETE /api/v1/service-keys/{service_key_id}': [
    { needs: 'operator', call: ({ serviceKey }) => ({ path: { service_key_id: serviceKey } }) },
  ],

  'GET /api/v1/users': [{ needs: 'operator' }],
  'GET /api/v1/users/{user_id}': [{ needs: 'operator', ...onStranger() }],
  'PATCH /api/v1/users/{user_id}': [
    { needs: 'operator', ...onStranger({ body: { plan: 'pro' } }) },
    { needs: 'operator', ...onStranger({ body: { role: 'user' } }) },
    { needs: 'operator', ...onStranger({ body: { status: 'active' } }) },
  ],
  'GET /api/v1/security/flags': [{ needs: 'operator' }],
  'PUT /api/v1/security/flags': [{ needs: 'operator', ...saying({ warm_up: true }) }],
  'GET /api/v1/performance/metrics': [{ needs: 'operator', asks: true }],

  'POST /api/v1/teams': [{ needs: 'session', ...saying({ name: 'Mine' }) }],
  'GET /api/v1/teams': [{ needs: 'session' }],
  'GET /api/v1/teams/{team_id}': [{ needs: 'role', atLeast: 'viewer', ...inTeam() }],
  'PATCH /api/v1/teams/{team_id}': [
    { needs: 'role', atLeast: 'admin', ...inTeam(() => ({ body: { name: 'Renamed' } })) },
  ],
  'DELETE /api/v1/teams/{team_id}': [{ needs: 'role', atLeast: 'owner', ...inTeam() }],
  'GET /api/v1/teams/{team_id}/members': [{ needs: 'role', atLeast: 'viewer', ...inTeam() }],
  'GET /api/v1/teams/{team_id}/statistics': [{ needs: 'role', atLeast: 'viewer', ...inTeam() }],
  'PATCH /api/v1/teams/{team_id}/members/{user_id}': [
    {
      needs: 'role',
      atLeast: 'admin',
      ...inTeam(({ ids }) => ({ path: { user_id: ids.viewer }, body: { role: 'editor' } })),
    },
    {
      needs: 'role',
      atLeast: 'owner',
      ...inTeam(({ ids }) => ({ path: { user_id: ids.viewer }, body: { role: 'admin' } })),
    },
    {
      needs: 'role',
      atLeast: 'owner',
      ...inTeam(({ ids }) => ({ path: { user_id: ids.admin }, body: { role: 'viewer' } })),
    },
  ],
  'DELETE /api/v1/teams/{team_id}/members/{user_id}': [
    { needs: 'role', atLeast: 'admin', ...inTeam(({ ids }) => ({ path: { user_id: ids.viewer } })) },
    { needs: 'role', atLeast: 'owner', ...inTeam(({ ids }) => ({ path: { user_id: ids.admin } })) },
  ],
  'POST /api/v1/teams/{team_id}/leave': [
    { needs: 'role', atLeast: 'viewer', otherwise: { owner: '409 team.owner_cannot_leave' }, ...inTeam() },
  ],
  'POST /api/v1/teams/{team_id}/transfer': [
    { needs: 'role', atLeast: 'owner', ...inTeam(({ ids }) => ({ body: { user_id: ids.viewer } })) },
  ],
  'POST /api/v1/teams/{team_id}/invitations': [
    { needs: 'role', atLeast: 'admin', ...inTeam(() => ({ body: { email: 'guest@example.com', role: 'viewer' } })) },
    { needs: 'role', atLeast: 'owner', ...inTeam(() => ({ body: { email: 'guest@example.com', role: 'admin' } })) },
  ],
  'GET /api/v1/teams/{team_id}/invitations': [{ needs: 'role', atLeast: 'admin', ...inTeam() }],
  'DELETE /api/v1/teams/{team_id}/invitations/{invitation_id}': [
    { needs: 'role', atLeast: 'admin', ...inTeam(({ invitation }) => ({ path: { invitation_id: invitation } })) },
  ],
  'POST /api/v1/teams/invitations/accept': [
    { needs: 'own', otherwise: '404 team.invitation_not_found', ...saying({ secret }) },
  ],
  'POST /api/v1/teams/invitations/decline': [
    { needs: 'own', otherwise: '404 team.invitation_not_found', ...saying({ secret }) },
  ],

  'POST /api/v1/projects': [{ needs: 'session', ...saying({ name: 'Mine' }) }],
  'GET /api/v1/projects': [{ needs: 'session' }],
  'GET /api/v1/projects/{project_id}': [{ needs: 'read', on: 'project', ...inProject() }],
  'PATCH /api/v1/projects/{project_id}': [
    { needs: 'write', on: 'project', ...inProject(() => ({ body: { name: 'Renamed' } })) },
    { needs: 'admin', on: 'project', ...inProject(() => ({ body: { visibility: 'public' } })) },
    { needs: 'admin', on: 'project', ...inProject(() => ({ body: { name: 'x', allow_derivatives: false } })) },
  ],
  'DELETE /api/v1/projects/{project_id}': [{ needs: 'delete', on: 'project', ...inProject() }],
  'POST /api/v1/projects/{project_id}/transfer': [
    { needs: 'admin', on: 'project', ownerOnly: true, ...inProject(({ ids }) => ({ body: { owner_id: ids.viewer } })) },
  ],
  'GET /api/v1/projects/{project_id}/stats': [{ needs: 'share', on: 'project', ...inProject() }],
  'GET /api/v1/projects/{project_id}/teams': [{ needs: 'share', on: 'project', ...inProject() }],
  'POST /api/v1/projects/{project_id}/teams': [
    {
      needs: 'admin',
      on: 'project',
      ...inProject(({ spareTeam }) => ({ body: { team_id: spareTeam, access_level: 'read' } })),
    },
  ],
  'PATCH /api/v1/projects/{project_id}/teams/{team_id}': [
    { needs: 'admin', on: 'project', ...inGrant({ body: { access_level: 'admin' } }) },
  ],
  'DELETE /api/v1/projects/{project_id}/teams/{team_id}': [{ needs: 'admin', on: 'project', ...inGrant() }],

  'POST /api/v1/generations': [
    { needs: 'session', ...saying(asked) },
    { needs: 'create', on: 'project', call: ({ project }) => ({ body: { ...asked, project_id: project } }) },
    {
      needs: 'read',
      on: 'generation',
      call: ({ generation }) => ({ body: { ...asked, parent_id: generation, intent: 'fork' } }),
    },
  ],
  'GET /api/v1/generations': [{ needs: 'session' }],
  'GET /api/v1/generations/{generation_id}': [{ needs: 'read', on: 'generation', ...onGeneration() }],
  'PATCH /api/v1/generations/{generation_id}': [
    { needs: 'write', on: 'generation', ...onGeneration(() => ({ body: { title: 'Titled' } })) },
    { needs: 'delete', on: 'generation', ...onGeneration(() => ({ body: { project_id: null } })) },
  ],
  'DELETE /api/v1/generations/{generation_id}': [{ needs: 'delete', on: 'generation', ...onGeneration() }],
  'POST /api/v1/generations/{generation_id}/cancel': [{ needs: 'write', on: 'generation', ...onGeneration() }],
  'POST /api/v1/generations/{generation_id}/favorite': [
    { needs: 'read', on: 'generation', ...onGeneration(() => ({ body: { favorite: true } })) },
  ],
  'GET /api/v1/generations/{generation_id}/provenance': [{ needs: 'read', on: 'generation', ...onGeneration() }],

  'GET /api/v1/generations/{generation_id}/stream': [{ needs: 'read', on: 'generation', ...onGeneration() }],
  'GET /api/v1/generations/{generation_id}/media': [{ needs: 'read', on: 'generation', ...onGeneration() }],
  'POST /api/v1/media': [{ needs: 'session', call: () => ({ picture }) }],
  'GET /api/v1/media': [{ needs: 'session' }],
  'DELETE /api/v1/media/{media_id}': [{ needs: 'delete', on: 'media', ...onMedia() }],
  'GET /api/v1/media/{media_id}': [{ needs: 'read', on: 'media', ...onMedia() }],
  'GET /api/v1/media/{media_id}/content': [
    { needs: 'download', on: 'media', ...onMedia() },
    { needs: 'download', on: 'media', ...onMedia('?variant=256') },
  ],
  'POST /api/v1/media/{media_id}/links': [{ needs: 'download', on: 'media', ...forMedia({ variant: '512' }) }],
  'POST /api/v1/media/{media_id}/share-links': [{ needs: 'share', on: 'media', ...forMedia({ label: 'Shown' }) }],
  'GET /api/v1/media/{media_id}/share-links': [{ needs: 'share', on: 'media', ...onMedia() }],
  'DELETE /api/v1/media/{media_id}/share-links/{share_link_id}': [
    {
      needs: 'share',
      on: 'media',
      call: ({ media, shareLink }) => ({ path: { media_id: media, share_link_id: shareLink } }),
    },
  ],

  'GET /api/v1/models': [{ needs: 'nothing' }],
  'GET /api/v1/models/{model_id}': [
    { needs: 'nothing', call: () => ({ path: { model_id: 'local/procedural' } }) },
    { needs: 'nothing', call: () => ({ path: { model_id: 'local%2Fprocedural' } }) },
  ],
  'GET /api/v1/credits/balance': [{ needs: 'session' }],
  'GET /api/v1/credits/ledger': [{ needs: 'session' }],
  'POST /api/v1/credits/grants': [
    { needs: 'operator', call: ({ ids }) => ({ body: { user_id: ids.operator, amount: 1, note: 'to themselves' } }) },
  ],
}

/** What a body may never say, but where the route is about just that. */
const claims: Record<string, unknown> = {
  owner_id: unknownId,
  role: 'admin',
  plan: 'enterprise',
  team_id: unknownId,
  status: 'completed',
}
const ownWords: Record<string, readonly string[]> = {
  'POST /api/v1/projects/{project_id}/transfer': ['owner_id'],
  'POST /api/v1/projects/{project_id}/teams': ['team_id'],
  'PATCH /api/v1/teams/{team_id}/members/{user_id}': ['role'],
  'POST /api/v1/teams/{team_id}/invitations': ['role'],
  'PATCH /api/v1/users/{user_id}': ['role', 'plan'],
}

const refusal = ({ status, body }: Answer) => (status < 400 ? 'ok' : `${status} ${body?.code}`)

describe('who may do what, on every route', () => {
  const clock = manualClock(Date.now())
  let app: TestApp
  let client: Api
  let document: Document
  let by: Record<Name, Person>
  let tokens: Record<string, string | undefined>
  let keys: Record<'check' | 'list', string>
  let things: Things

  const made = async (path: string, body: object, { token }: Person) => {
    const answer = await client.post(`/api/v1${path}`, body, { token })
    expect([path, refusal(answer)]).toEqual([path, 'ok'])
    return answer.body
  }
  const join = async (team: string, person: Person, role: string, inviter = by.owner) => {
    const { secret } = await made(`/teams/${team}/invitations`, { email: person.email, role }, inviter)
    await made('/teams/invitations/accept', { secret }, person)
  }
  const leave = async (team: string, { token }: Person) => {
    const { status } = await client.post(`/api/v1/teams/${team}/leave`, undefined, { token })
    expect(status).toBe(204)
  }
  /** What came of a generation, as it would be if it had been made. */
  const complete = async ({ id, owner_id }: { id: string; owner_id: string }): Promise<string> => {
    const media = newId()
    const bytes = Buffer.from('not really a picture')
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const objects = createDiskObjects({ directory: app.services.config.mediaDirectory })
    await objects.put(objectKey(sha256), bytes, 'image/webp')
    await objects.put(objectKey(sha256, '256'), bytes, 'image/webp')
    const { admin: sql } = app.services.database
    await sql`
      insert into media_objects (sha256, content_type, bytes, width, height)
      values (${sha256}, 'image/webp', ${bytes.length}, 1, 1) on conflict do nothing`
    await sql`delete from generation_jobs where generation_id = ${id}`
    await sql`update generations set status = 'completed' where id = ${id}`
    await sql`
      insert into media (id, generation_id, owner_id, position, sha256)
      values (${media}, ${id}, ${owner_id}, 0, ${sha256})`
    return media
  }
  /** A project of somebody, with a grant of level write to the team, of which its owner is no member. */
  const share = async (team: string, person: Person, visibility: string) => {
    const { id } = await made('/projects', { name: 'A project', visibility }, person)
    const generation = await made('/generations', { ...asked, project_id: id }, person)
    const media = await complete(await made('/generations', { ...asked, project_id: id }, person))
    await join(team, person, 'admin')
    await made(`/projects/${id}/teams`, { team_id: team, access_level: 'write' }, person)
    await leave(team, person)
    const link = await made(`/media/${media}/share-links`, {}, person)
    return [id, generation.id, media, link.id] as const
  }
  const build = async (): Promise<Things> => {
    const { id: team } = await made('/teams', { name: 'A team' }, by.owner)
    for (const role of roles.slice(1)) await join(team, by[role], role)
    const [project, generation, media, shareLink] = await share(team, by.maker, 'team-only')
    const [hiddenProject, hiddenGeneration, hiddenMedia, hiddenShareLink] = await share(team, by.other, 'private')
    const guest = { email: 'guest@example.com', role: 'viewer' }
    const { token } = by.maker
    const session = (await client.get('/api/v1/auth/sessions', { token })).body.items[0].id
    return {
      team,
      project,
      generation,
      media,
      shareLink,
      hiddenProject,
      hiddenGeneration,
      hiddenMedia,
      hiddenShareLink,
      spareTeam: (await made('/teams', { name: 'Another' }, by.maker)).id,
      invitation: (await made(`/teams/${team}/invitations`, guest, by.owner)).id,
      serviceKey: (await made('/service-keys', { name: 'k', scopes: ['authorization:list'] }, by.operator)).id,
      session,
      ids: Object.fromEntries(people.map((name) => [name, by[name].id])) as Record<Name, string>,
    }
  }

  beforeAll(async () => {
    app = await startApp({ clock })
    client = api(app.baseUrl)
    document = (await client.get('/docs/json')).body
    const expired = await register(client)
    clock.advance(901_000)
    const entries = await Promise.all(people.map(async (name) => [name, await register(client)] as const))
    by = Object.fromEntries(entries) as Record<Name, Person>
    const [suspended, closed] = await Promise.all([register(client), register(client)])
    await app.services.database.admin`update users set role = 'admin' where id = ${by.operator.id}`
    things = await build()
    for (const person of [suspended, closed]) await join(things.team, person, 'admin')
    await app.services.database.admin`update users set status = 'suspended' where id = ${suspended.id}`
    expect((await client.delete('/api/v1/auth/me', { token: closed.token })).status).toBe(204)
    // What was known of the suspended one before its row was changed by hand is soon no longer believed.
    clock.advance(300_000)
    const keyFor = async (scope: string) =>
      (await made('/service-keys', { name: scope, scopes: [scope] }, by.operator)).key as string
    keys = { check: await keyFor('authorization:check'), list: await keyFor('authorization:list') }
    const [head, , signature] = by.maker.token.split('.')
    const [, payload] = by.owner.token.split('.')
    tokens = {
      nobody: undefined,
      expired: expired.token,
      forged: `${head}.${payload}.${signature}`,
      suspended: suspended.token,
      closed: closed.token,
      ...Object.fromEntries(people.map((name) => [name, by[name].token])),
    }
  }, 60_000)
  afterAll(() => app?.close())

  const tokenOf = (subject: Subject, name: string) =>
    subject === 'service' ? (/accessible|who/.test(name) ? keys.check : keys.list) : tokens[subject]

  const openStream = async (target: string, token: string | undefined): Promise<Answer> => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` }
    const response = await fetch(`${app.baseUrl}${target}`, { headers })
    if (response.status >= 400)
      return { status: response.status, headers: response.headers, body: await response.json() }
    await response.body?.cancel()
    return { status: response.status, headers: response.headers, body: undefined }
  }
  const send = (
    name: string,
    { path = {}, query = '', body, picture }: Call,
    token: string | undefined,
  ): Promise<Answer> => {
    const [method = '', template = ''] = name.split(' ')
    const target = template.replaceAll(/\{(\w+)\}/g, (_, each: string) => path[each] ?? unknownId) + query
    const sending = token === undefined ? {} : { token }
    if (picture !== undefined) {
      return client.post(target, picture, { ...sending, headers: { 'content-type': 'image/png' } })
    }
    // It would go on; how it is begun is the same.
    if (target.endsWith('/stream')) return openStream(target, token)
    if (method === 'GET') return client.get(target, sending)
    if (method === 'DELETE') return client.delete(target, sending)
    if (method === 'PUT') return client.put(target, body, sending)
    return method === 'PATCH' ? client.patch(target, body, sending) : client.post(target, body, sending)
  }

  /** What the table says of one subject: 'ok', or the refusal. */
  const expected = (entry: Entry, subject: Subject, target: 'shared' | 'hidden'): string => {
    if (entry.needs === 'nothing') return 'open'
    if (outsiders.includes(subject as never)) return '401 identity.not_signed_in'
    if (subject === 'service') {
      return entry.asks || entry.needs === 'service' ? '403 service_key.scope_missing' : '401 identity.not_signed_in'
    }
    const name = subject as Name
    if ('on' in entry) {
      const may = mayDo[target][name]
      if (!may.includes('read')) return `404 ${entry.on}.not_found`
      if (entry.ownerOnly && name !== 'maker') return '403 access.denied'
      return may.includes(entry.needs) ? 'ok' : '403 access.denied'
    }
    if (entry.needs === 'session') return 'ok'
    if (entry.needs === 'service') return '403 access.services_only'
    if (entry.needs === 'operator') return name === 'operator' ? 'ok' : '403 access.admins_only'
    if (entry.needs === 'own') return name === entry.of ? 'ok' : entry.otherwise
    const role = roles.find((each) => each === name)
    if (role === undefined) return '404 team.not_found'
    if (roles.indexOf(role) > roles.indexOf(entry.atLeast)) return '403 team.role_too_low'
    return entry.otherwise?.[role] ?? 'ok'
  }

  const wordsOf = ({ status, headers, body }: Answer, ids: readonly string[]) => {
    const text = ids.reduce((rest, id) => rest.replaceAll(id, '<id>'), JSON.stringify({ ...body, request_id: '' }))
    return { status, text, headers: [...headers].filter(([name]) => !['date', 'x-request-id'].includes(name)) }
  }

  test('the table has every route of the document and no other', () => {
    expect(Object.keys(table).sort()).toEqual(routesOf(document).map(nameOf).sort())
  })

  const inTarget = (given: Things, target: 'shared' | 'hidden'): Things =>
    target === 'shared'
      ? given
      : {
          ...given,
          project: given.hiddenProject,
          generation: given.hiddenGeneration,
          media: given.hiddenMedia,
          shareLink: given.hiddenShareLink,
        }

  /** What the call is about, in its path, its query or its body. */
  const principalOf = (entry: Entry, given: Things): string | undefined => {
    if ('on' in entry) return given[entry.on]
    if (entry.needs === 'role') return given.team
    return entry.needs === 'own' ? entry.thing?.(given) : undefined
  }

  const problemsOf = async (name: string, entry: Entry, subject: Subject, target: 'shared' | 'hidden') => {
    const given = inTarget(things, target)
    const call = entry.call?.(given) ?? {}
    const token = tokenOf(subject, name)
    const answer = await send(name, call, token)
    const got = refusal(answer)
    const should = expected(entry, subject, target)
    const what = `${name} ${JSON.stringify(call.body ?? '')} on ${target} as ${subject}`
    const problems: string[] = []
    const isRight = should === 'open' ? answer.status < 500 && got !== '401 identity.not_signed_in' : got === should
    if (!isRight) problems.push(`${what}: ${got}, not ${should}`)
    const principal = principalOf(entry, given)
    if (answer.status === 404 && principal !== undefined) {
      const imagined = randomUUID()
      const other = JSON.parse(JSON.stringify(call).replaceAll(principal, imagined))
      const never = await send(name, other, token)
      const [seen, unseen] = [wordsOf(answer, [principal]), wordsOf(never, [imagined])]
      if (!Bun.deepEquals(seen, unseen)) problems.push(`${what}: ${seen.text}, but of nothing ${unseen.text}`)
    }
    // What was let through may have changed the world that the next one is held against.
    if (got === 'ok' && !name.startsWith('GET') && 'call' in entry && entry.needs !== 'session') things = await build()
    return problems
  }

  for (const [name, entries] of Object.entries(table)) {
    test(name, async () => {
      const problems: string[] = []
      for (const entry of entries) {
        for (const target of 'on' in entry ? (['shared', 'hidden'] as const) : (['shared'] as const)) {
          for (const subject of [...outsiders, 'service' as const, ...(entry.drastic ? [] : people)]) {
            // Ending it would sign the maker out; another suite does.
            if (entry.needs === 'own' && subject === entry.of) continue
            // It owns the hidden project, but is in no team, and so has nobody to hand it to.
            if (target === 'hidden' && subject === 'other' && entry.needs === 'admin') continue
            problems.push(...(await problemsOf(name, entry, subject, target)))
          }
        }
      }
      expect(problems).toEqual([])
    }, 60_000)
  }

  test('what only the service decides is no word of a body, whoever says it', async () => {
    const wrong: string[] = []
    for (const [name, entries] of Object.entries(table)) {
      if (name.includes('/access/v1/')) continue
      for (const entry of entries) {
        const call = entry.call?.(things)
        if (call?.body === undefined) continue
        for (const [word, value] of Object.entries(claims)) {
          if (ownWords[name]?.includes(word)) continue
          for (const subject of ['maker', 'owner', 'operator'] as const) {
            const answer = await send(name, { ...call, body: { ...call.body, [word]: value } }, by[subject].token)
            if (refusal(answer) !== '422 request.invalid')
              wrong.push(`${name} ${word} as ${subject}: ${refusal(answer)}`)
          }
        }
      }
    }
    expect(wrong).toEqual([])
  })

  test('an operator, a stranger and a team with a sleeping grant are shown nothing of it in any list', async () => {
    things = await build()
    const { ids: _, session: __, serviceKey: ___, ...all } = things
    const { hiddenProject, hiddenGeneration } = things
    const unseen = {
      operator: Object.values(all),
      stranger: Object.values(all),
      owner: [hiddenProject, hiddenGeneration],
    }
    const lists = [
      'projects?',
      'generations?',
      'teams?',
      'media?',
      'authorization/accessible?type=project&action=read&',
    ]
    for (const list of [...lists, 'authorization/accessible?type=generation&action=read&']) {
      for (const [name, ids] of Object.entries(unseen)) {
        const { token } = by[name as Name]
        const { status, body } = await client.get(`/api/v1/${list}limit=100`, { token })
        expect(status).toBe(200)
        const text = JSON.stringify(body)
        expect([list, name, ids.filter((id) => text.includes(id))]).toEqual([list, name, []])
      }
    }
  })
})
