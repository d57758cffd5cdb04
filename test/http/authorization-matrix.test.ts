import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { newPicture } from '../harness/pictures.ts'
import {
  type Answer,
  type Api,
  api,
  createMailbox,
  type Person,
  register,
  type Sending,
  startApp,
  type TestApp,
} from '../harness.ts'
import { type Document, nameOf, type Route, routesOf, unknownId } from './black-box/document.ts'
import { headOf, sendRaw } from './black-box/wire.ts'

/*
 * Calls every documented route as every kind of caller and compares the answer with a table written by hand from the
 * specification. No expected answer is computed by the code under test.
 */

const roles = ['owner', 'admin', 'editor', 'contributor', 'viewer'] as const satisfies readonly TeamRole[]
/** Callers without a valid token. Each is answered like a request without any token. */
const outsiders = ['anonymous', 'expired', 'forged', 'suspended', 'closed'] as const
/** Signed-in callers. `maker` owns the shared project; `other` owns a private one, where the team's grant is dormant. */
const people = ['maker', 'other', 'stranger', 'operator', ...roles] as const
type Name = (typeof people)[number]
/** `service`: a service key that lacks the scope the route requires. */
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

/** Allowed actions by caller: on the team-only project, on which the team has a write grant, and on the private one. */
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

type World = {
  project: string
  generation: string
  /** Belongs to a completed generation in the project. */
  media: string
  shareLink: string
  /** The private project of `other`, followed by its contents. */
  hiddenProject: string
  hiddenGeneration: string
  hiddenMedia: string
  hiddenShareLink: string
  team: string
  /** A team without a grant, owned by `maker`. */
  spareTeam: string
  invitation: string
  serviceKey: string
  block: string
  incident: string
  session: string
  /** A webhook of the operators, and an event that was recorded for it. */
  webhook: string
  event: string
  /** The same of the team. */
  teamWebhook: string
  teamEvent: string
  ids: Record<Name, string>
}

type RequestParts = {
  path?: Record<string, string>
  query?: string
  body?: Record<string, unknown>
  /** An uploaded picture, sent instead of a JSON body. */
  picture?: Uint8Array
}
/** The permission a request requires and the resource it is checked on. */
type Requirement =
  | { needs: 'nothing' }
  | { needs: 'session' }
  | { needs: 'operator' }
  | { needs: 'service' }
  /** Every signed-in caller may send it, but the resource is visible to its owner (`of`) only. */
  | { needs: 'own'; of?: Name; resource?: (world: World) => string; otherwise: string }
  | { needs: Action; on: 'project' | 'generation' | 'media'; ownerOnly?: true }
  | { needs: 'role'; atLeast: TeamRole; otherwise?: Partial<Record<TeamRole, string>> }
type Entry = Requirement & {
  call?: (world: World) => RequestParts
  /** Service keys with the scope may call it as well. */
  allowsServices?: true
  /** Ends the caller's own account or session, so only callers without a valid token try it. */
  endsOwnAccess?: true
}

const inProject = (more: (world: World) => RequestParts = () => ({})) => ({
  call: (world: World): RequestParts => ({ path: { project_id: world.project }, ...more(world) }),
})
const inGrant = (more: RequestParts = {}) => ({
  call: ({ project, team }: World): RequestParts => ({ path: { project_id: project, team_id: team }, ...more }),
})
const onMedia = (query = '') => ({ call: ({ media }: World): RequestParts => ({ path: { media_id: media }, query }) })
const forMedia = (body: Record<string, unknown>) => ({
  call: ({ media }: World): RequestParts => ({ path: { media_id: media }, body }),
})
const onGeneration = (more: (world: World) => RequestParts = () => ({})) => ({
  call: (world: World): RequestParts => ({ path: { generation_id: world.generation }, ...more(world) }),
})
const inTeam = (more: (world: World) => RequestParts = () => ({})) => ({
  call: (world: World): RequestParts => {
    const { path, ...rest } = more(world)
    return { path: { team_id: world.team, ...path }, ...rest }
  },
})
const onStranger = (more: RequestParts = {}) => ({
  call: ({ ids }: World): RequestParts => ({ path: { user_id: ids.stranger }, ...more }),
})
/** Calls about this account do not change what the callers of the table may do. */
let suspendedId = ''
/** One without a password. */
let invitedId = ''
const withBody = (body: Record<string, unknown>) => ({ call: (): RequestParts => ({ body }) })
const newWebhook = { url: 'https://receiver.invalid/', events: ['team.member_added'] }
const onWebhook = (more: RequestParts = {}) => ({
  call: ({ webhook, event }: World): RequestParts => ({ path: { webhook_id: webhook, event_id: event }, ...more }),
})
const onTeamWebhook = (more: RequestParts = {}) =>
  inTeam(({ teamWebhook, teamEvent }) => ({ path: { webhook_id: teamWebhook, event_id: teamEvent }, ...more }))
const onFlag = (more: RequestParts = {}) => ({ call: (): RequestParts => ({ path: { name: 'matrix' }, ...more }) })
const newGeneration = { model: 'local/procedural', prompt: 'p' }
const secret = 'A'.repeat(43)
const picture = await newPicture()
const assertion = {
  id: 'AA',
  rawId: 'AA',
  type: 'public-key',
  clientExtensionResults: {},
  response: { clientDataJSON: 'e30', authenticatorData: 'AA', signature: 'AA' },
}
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

  'POST /api/v1/auth/register': [{ needs: 'nothing', ...withBody({ email: 'x@example.com', password: 'password' }) }],
  'POST /api/v1/auth/login': [{ needs: 'nothing', ...withBody({ email: 'x@example.com', password: 'not theirs' }) }],
  'POST /api/v1/auth/refresh': [{ needs: 'nothing', ...withBody({ refresh_token: secret }) }],
  'POST /api/v1/auth/account-invitation/confirm': [
    { needs: 'nothing', ...withBody({ token: secret, new_password: 'a phrase of mine' }) },
  ],
  'POST /api/v1/auth/verify-email': [{ needs: 'nothing', ...withBody({ email: 'x@example.com' }) }],
  'POST /api/v1/auth/verify-email/confirm': [{ needs: 'nothing', ...withBody({ token: secret }) }],
  'POST /api/v1/auth/password-reset': [{ needs: 'nothing', ...withBody({ email: 'x@example.com' }) }],
  'POST /api/v1/auth/password-reset/confirm': [
    { needs: 'nothing', ...withBody({ token: secret, new_password: 'a phrase of mine' }) },
  ],
  'POST /api/v1/auth/email': [{ needs: 'session', ...withBody({ email: 'x@example.com' }) }],
  'POST /api/v1/auth/email/confirm': [{ needs: 'nothing', ...withBody({ token: secret }) }],
  'POST /api/v1/auth/email/undo': [{ needs: 'nothing', ...withBody({ token: secret }) }],
  'POST /api/v1/auth/logout': [{ needs: 'session', endsOwnAccess: true }],
  'POST /api/v1/auth/logout-all': [{ needs: 'session', endsOwnAccess: true }],
  'GET /api/v1/auth/identity-providers': [{ needs: 'nothing' }],
  'GET /api/v1/auth/identity-providers/{provider_id}/start': [
    {
      needs: 'nothing',
      call: () => ({ path: { provider_id: 'acme' }, query: `?return_to=x&code_challenge=${secret}` }),
    },
  ],
  'GET /api/v1/auth/identity-providers/{provider_id}/callback': [
    { needs: 'nothing', call: () => ({ path: { provider_id: 'acme' }, query: '?state=x' }) },
  ],
  'POST /api/v1/auth/identity-providers/sign-in': [
    { needs: 'nothing', ...withBody({ code: secret, code_verifier: secret }) },
  ],
  'POST /api/v1/auth/identity-providers/{provider_id}/start': [
    {
      needs: 'own',
      otherwise: '404 identity_provider.not_found',
      call: () => ({
        path: { provider_id: 'acme' },
        body: { purpose: 'link', return_to: 'x', code_challenge: secret },
      }),
    },
  ],
  'POST /api/v1/auth/identity-providers/reauthenticate': [
    {
      needs: 'own',
      otherwise: '400 identity_provider.code_invalid',
      ...withBody({ code: secret, code_verifier: secret }),
    },
  ],
  'GET /api/v1/auth/linked-identities': [{ needs: 'session' }],
  'POST /api/v1/auth/linked-identities': [
    {
      needs: 'own',
      otherwise: '400 identity_provider.code_invalid',
      ...withBody({ code: secret, code_verifier: secret }),
    },
  ],
  'DELETE /api/v1/auth/linked-identities/{linked_identity_id}': [
    {
      needs: 'own',
      otherwise: '404 linked_identity.not_found',
      call: () => ({ path: { linked_identity_id: unknownId } }),
    },
  ],
  'POST /api/v1/auth/login/second-factor': [
    { needs: 'nothing', ...withBody({ sign_in_token: secret, code: '000000' }) },
  ],
  'POST /api/v1/auth/login/passkey/options': [{ needs: 'nothing' }],
  'POST /api/v1/auth/login/passkey': [{ needs: 'nothing', ...withBody({ passkey: assertion }) }],
  'POST /api/v1/auth/reauthenticate/options': [{ needs: 'session' }],
  'GET /api/v1/auth/second-factors': [{ needs: 'session' }],
  'POST /api/v1/auth/totp': [{ needs: 'session' }],
  'POST /api/v1/auth/totp/confirm': [
    { needs: 'own', otherwise: '403 identity.second_factor_wrong', ...withBody({ code: '000000' }) },
  ],
  'DELETE /api/v1/auth/totp': [{ needs: 'own', otherwise: '404 totp.not_found' }],
  'POST /api/v1/auth/recovery-codes': [{ needs: 'own', otherwise: '409 second_factor.none' }],
  'POST /api/v1/auth/passkeys/options': [{ needs: 'session' }],
  'POST /api/v1/auth/passkeys': [
    {
      needs: 'own',
      otherwise: '400 passkey.response_invalid',
      ...withBody({
        name: 'k',
        passkey: { ...assertion, response: { clientDataJSON: 'e30', attestationObject: 'oA' } },
      }),
    },
  ],
  'PATCH /api/v1/auth/passkeys/{passkey_id}': [
    { needs: 'own', otherwise: '404 passkey.not_found', ...withBody({ name: 'k' }) },
  ],
  'DELETE /api/v1/auth/passkeys/{passkey_id}': [{ needs: 'own', otherwise: '404 passkey.not_found' }],
  'POST /api/v1/auth/reauthenticate': [
    { needs: 'session', endsOwnAccess: true, ...withBody({ password: 'not theirs' }) },
  ],
  'GET /api/v1/auth/me': [{ needs: 'session' }],
  'GET /api/v1/auth/me/quotas': [{ needs: 'session' }],
  'PATCH /api/v1/auth/me': [{ needs: 'session', ...withBody({ display_name: 'Renamed' }) }],
  'DELETE /api/v1/auth/me': [{ needs: 'session', endsOwnAccess: true }],
  'POST /api/v1/auth/me/export': [{ needs: 'session' }],
  'POST /api/v1/auth/password': [
    {
      needs: 'session',
      endsOwnAccess: true,
      ...withBody({ current_password: 'not mine', new_password: 'a phrase of mine' }),
    },
  ],
  'GET /api/v1/auth/sessions': [{ needs: 'session' }],
  'DELETE /api/v1/auth/sessions/{session_id}': [
    {
      needs: 'own',
      of: 'maker',
      resource: ({ session }) => session,
      otherwise: '404 session.not_found',
      call: ({ session }) => ({ path: { session_id: session } }),
    },
  ],

  'POST /api/v1/authorization/check': [
    {
      needs: 'session',
      allowsServices: true,
      call: ({ project }) => ({ body: { action: 'read', resource: { type: 'project', id: project } } }),
    },
  ],
  'POST /api/v1/authorization/check/batch': [
    {
      needs: 'session',
      allowsServices: true,
      call: ({ project }) => ({ body: { checks: [{ action: 'read', resource: { type: 'project', id: project } }] } }),
    },
  ],
  'POST /api/v1/authorization/explain': [
    {
      needs: 'session',
      allowsServices: true,
      call: ({ project }) => ({ body: { action: 'read', resource: { type: 'project', id: project } } }),
    },
  ],
  'GET /api/v1/authorization/accessible': [
    { needs: 'session', allowsServices: true, call: () => ({ query: '?type=project&action=read' }) },
  ],
  'GET /api/v1/authorization/who': [
    {
      needs: 'share',
      on: 'project',
      allowsServices: true,
      call: ({ project }) => ({ query: `?type=project&id=${project}&action=read` }),
    },
    {
      needs: 'share',
      on: 'generation',
      allowsServices: true,
      call: ({ generation }) => ({ query: `?type=generation&id=${generation}&action=read` }),
    },
  ],
  'POST /access/v1/evaluation': [{ needs: 'service', call: ({ project }) => ({ body: evaluation(project) }) }],
  'POST /access/v1/search/subject': [{ needs: 'service', call: ({ project }) => ({ body: evaluation(project) }) }],
  'POST /access/v1/search/resource': [{ needs: 'service', call: ({ project }) => ({ body: evaluation(project) }) }],
  'POST /access/v1/search/action': [{ needs: 'service', call: ({ project }) => ({ body: evaluation(project) }) }],
  'POST /access/v1/evaluations': [
    { needs: 'service', call: ({ project }) => ({ body: { evaluations: [evaluation(project)] } }) },
  ],

  'POST /api/v1/service-keys': [{ needs: 'operator', ...withBody({ name: 'k', scopes: ['authorization:check'] }) }],
  'GET /api/v1/service-keys': [{ needs: 'operator' }],
  'DELETE /api/v1/service-keys/{service_key_id}': [
    { needs: 'operator', call: ({ serviceKey }) => ({ path: { service_key_id: serviceKey } }) },
  ],

  'PATCH /api/v1/service-keys/{service_key_id}': [
    {
      needs: 'operator',
      call: ({ serviceKey }) => ({ path: { service_key_id: serviceKey }, body: { limit_per_second: 100 } }),
    },
  ],
  'GET /api/v1/security/audit': [{ needs: 'operator' }],
  'GET /api/v1/security/audit/verify': [{ needs: 'operator' }],
  'POST /api/v1/security/audit/export': [{ needs: 'operator', ...withBody({ from: '2030-01-01T00:00:00Z' }) }],
  'GET /api/v1/auth/audit': [{ needs: 'session' }],
  'GET /api/v1/teams/{team_id}/audit': [{ needs: 'role', atLeast: 'owner', ...inTeam() }],
  'GET /api/v1/security/limits': [{ needs: 'operator' }],
  'POST /api/v1/security/limits/lift': [{ needs: 'operator', ...withBody({ budget: 'api', key: 'unknown' }) }],

  'GET /api/v1/users': [{ needs: 'operator' }],
  'GET /api/v1/users/{user_id}': [{ needs: 'operator', ...onStranger() }],
  'GET /api/v1/users/{user_id}/quotas': [{ needs: 'operator', ...onStranger() }],
  'PATCH /api/v1/users/{user_id}': [
    { needs: 'operator', ...onStranger({ body: { plan: 'pro' } }) },
    { needs: 'operator', ...onStranger({ body: { role: 'user' } }) },
    { needs: 'operator', ...onStranger({ body: { email_verified: true } }) },
    { needs: 'operator', ...onStranger({ body: { status: 'active' } }) },
  ],
  'POST /api/v1/users': [
    { needs: 'operator', call: () => ({ body: { email: `invited-${randomBytes(6).toString('hex')}@example.com` } }) },
  ],
  'POST /api/v1/users/{user_id}/invitation': [{ needs: 'operator', call: () => ({ path: { user_id: invitedId } }) }],
  'POST /api/v1/users/{user_id}/password-reset': [
    { needs: 'operator', call: () => ({ path: { user_id: invitedId } }) },
  ],
  'DELETE /api/v1/users/{user_id}/sessions': [{ needs: 'operator', call: () => ({ path: { user_id: suspendedId } }) }],
  'DELETE /api/v1/users/{user_id}/second-factors': [{ needs: 'operator', ...onStranger() }],
  'GET /api/v1/users/{user_id}/sign-in-failures': [{ needs: 'operator', ...onStranger() }],
  'DELETE /api/v1/users/{user_id}/sign-in-failures': [{ needs: 'operator', ...onStranger() }],
  'GET /api/v1/security/mode': [{ needs: 'operator' }],
  'PUT /api/v1/security/mode': [{ needs: 'operator', ...withBody({ mode: 'normal' }) }],
  'GET /api/v1/security/blocks': [{ needs: 'operator' }],
  'POST /api/v1/security/blocks': [{ needs: 'operator', ...withBody({ kind: 'address', value: '203.0.113.7' }) }],
  'DELETE /api/v1/security/blocks/{block_id}': [
    { needs: 'operator', call: ({ block }) => ({ path: { block_id: block } }) },
  ],
  'GET /api/v1/security/flags': [{ needs: 'operator' }],
  'PUT /api/v1/security/flags': [{ needs: 'operator', ...withBody({ warm_up: true }) }],
  'GET /api/v1/security/breakers': [{ needs: 'operator', allowsServices: true }],
  'PATCH /api/v1/security/breakers/{dependency}': [
    { needs: 'operator', call: () => ({ path: { dependency: 'siem' }, body: { failures: 5 } }) },
  ],
  'GET /api/v1/feature-flags': [{ needs: 'session' }],
  'GET /api/v1/security/feature-flags': [{ needs: 'operator' }],
  'GET /api/v1/security/feature-flags/{name}': [{ needs: 'operator', ...onFlag() }],
  'PUT /api/v1/security/feature-flags/{name}': [{ needs: 'operator', ...onFlag({ body: { enabled: true } }) }],
  'DELETE /api/v1/security/feature-flags/{name}': [{ needs: 'operator', ...onFlag() }],
  'GET /api/v1/security/feature-flags/{name}/versions': [{ needs: 'operator', ...onFlag() }],
  'POST /api/v1/security/feature-flags/{name}/restore': [{ needs: 'operator', ...onFlag({ body: { version: 1 } }) }],
  'GET /api/v1/security/incidents': [{ needs: 'operator' }],
  'POST /api/v1/security/incidents': [
    { needs: 'operator', ...withBody({ severity: 'low', subject: { type: 'dependency', id: 'mail' } }) },
  ],
  'GET /api/v1/security/incidents/{incident_id}': [
    { needs: 'operator', call: ({ incident }) => ({ path: { incident_id: incident } }) },
  ],
  'PATCH /api/v1/security/incidents/{incident_id}': [
    { needs: 'operator', call: ({ incident }) => ({ path: { incident_id: incident }, body: { note: 'seen' } }) },
  ],
  'GET /api/v1/performance/metrics': [{ needs: 'operator', allowsServices: true }],
  'GET /api/v1/performance/alerts': [{ needs: 'operator', allowsServices: true }],
  'GET /metrics': [{ needs: 'operator', allowsServices: true }],
  'GET /api/v1/performance/health': [{ needs: 'operator', allowsServices: true }],
  'GET /api/v1/performance/report': [{ needs: 'operator', allowsServices: true }],
  'GET /api/v1/performance/prd-compliance': [{ needs: 'operator', allowsServices: true }],
  'GET /api/v1/performance/stream': [{ needs: 'operator', allowsServices: true }],

  'POST /api/v1/teams': [{ needs: 'session', ...withBody({ name: 'Mine' }) }],
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
    { needs: 'own', otherwise: '404 team.invitation_not_found', ...withBody({ secret }) },
  ],
  'POST /api/v1/teams/invitations/decline': [
    { needs: 'own', otherwise: '404 team.invitation_not_found', ...withBody({ secret }) },
  ],

  'POST /api/v1/webhooks': [{ needs: 'operator', ...withBody(newWebhook) }],
  'GET /api/v1/webhooks': [{ needs: 'operator' }],
  'GET /api/v1/webhooks/{webhook_id}': [{ needs: 'operator', ...onWebhook() }],
  'PATCH /api/v1/webhooks/{webhook_id}': [{ needs: 'operator', ...onWebhook({ body: { description: 'Renamed' } }) }],
  'DELETE /api/v1/webhooks/{webhook_id}': [{ needs: 'operator', ...onWebhook() }],
  'POST /api/v1/webhooks/{webhook_id}/secret': [{ needs: 'operator', ...onWebhook({ body: {} }) }],
  'GET /api/v1/webhooks/{webhook_id}/deliveries': [{ needs: 'operator', ...onWebhook() }],
  'POST /api/v1/webhooks/{webhook_id}/deliveries/{event_id}/replay': [{ needs: 'operator', ...onWebhook() }],
  'POST /api/v1/webhooks/{webhook_id}/replay': [{ needs: 'operator', ...onWebhook({ body: {} }) }],
  'POST /api/v1/teams/{team_id}/webhooks': [
    { needs: 'role', atLeast: 'admin', ...inTeam(() => ({ body: newWebhook })) },
  ],
  'GET /api/v1/teams/{team_id}/webhooks': [{ needs: 'role', atLeast: 'admin', ...inTeam() }],
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}': [{ needs: 'role', atLeast: 'admin', ...onTeamWebhook() }],
  'PATCH /api/v1/teams/{team_id}/webhooks/{webhook_id}': [
    { needs: 'role', atLeast: 'admin', ...onTeamWebhook({ body: { enabled: false } }) },
  ],
  'DELETE /api/v1/teams/{team_id}/webhooks/{webhook_id}': [{ needs: 'role', atLeast: 'admin', ...onTeamWebhook() }],
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/secret': [
    { needs: 'role', atLeast: 'admin', ...onTeamWebhook({ body: {} }) },
  ],
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries': [
    { needs: 'role', atLeast: 'admin', ...onTeamWebhook() },
  ],
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries/{event_id}/replay': [
    { needs: 'role', atLeast: 'admin', ...onTeamWebhook() },
  ],
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/replay': [
    { needs: 'role', atLeast: 'admin', ...onTeamWebhook({ body: {} }) },
  ],

  'POST /api/v1/projects': [{ needs: 'session', ...withBody({ name: 'Mine' }) }],
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
    { needs: 'session', ...withBody(newGeneration) },
    { needs: 'create', on: 'project', call: ({ project }) => ({ body: { ...newGeneration, project_id: project } }) },
    {
      needs: 'read',
      on: 'generation',
      call: ({ generation }) => ({ body: { ...newGeneration, parent_id: generation, intent: 'fork' } }),
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
  'POST /api/v1/generations/{generation_id}/stream-tickets': [{ needs: 'read', on: 'generation', ...onGeneration() }],
  'GET /api/v1/generations/{generation_id}/media': [{ needs: 'read', on: 'generation', ...onGeneration() }],
  'POST /api/v1/media': [{ needs: 'session', call: () => ({ picture }) }],
  'GET /api/v1/media': [{ needs: 'session' }],
  'DELETE /api/v1/media/{media_id}': [{ needs: 'delete', on: 'media', ...onMedia() }],
  'GET /api/v1/media/{media_id}': [{ needs: 'read', on: 'media', ...onMedia() }],
  'GET /api/v1/media/{media_id}/content': [
    { needs: 'download', on: 'media', ...onMedia() },
    { needs: 'download', on: 'media', ...onMedia('?variant=256') },
  ],
  // What may not be downloaded is refused by itself.
  'POST /api/v1/media/links': [{ needs: 'session', call: ({ media }) => ({ body: { links: [{ media_id: media }] } }) }],
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

/**
 * The routes that a service may call for a user, with the scope that its key needs. All others refuse it: those about e-mail
 * addresses, passwords, second factors, sessions, ownership and keys among them.
 */
const actingRoutes: Record<string, readonly string[]> = {
  'users:read': [
    'GET /api/v1/auth/me',
    'GET /api/v1/auth/me/quotas',
    'GET /api/v1/users',
    'GET /api/v1/users/{user_id}',
    'GET /api/v1/users/{user_id}/quotas',
  ],
  'users:write': ['PATCH /api/v1/auth/me'],
  'teams:write': [
    'POST /api/v1/teams',
    'GET /api/v1/teams',
    'GET /api/v1/teams/{team_id}',
    'PATCH /api/v1/teams/{team_id}',
    'DELETE /api/v1/teams/{team_id}',
    'GET /api/v1/teams/{team_id}/members',
    'GET /api/v1/teams/{team_id}/statistics',
    'PATCH /api/v1/teams/{team_id}/members/{user_id}',
    'DELETE /api/v1/teams/{team_id}/members/{user_id}',
    'POST /api/v1/teams/{team_id}/leave',
    'POST /api/v1/teams/{team_id}/invitations',
    'GET /api/v1/teams/{team_id}/invitations',
    'DELETE /api/v1/teams/{team_id}/invitations/{invitation_id}',
    'POST /api/v1/teams/invitations/accept',
    'POST /api/v1/teams/invitations/decline',
  ],
  'projects:write': [
    'POST /api/v1/projects',
    'GET /api/v1/projects',
    'GET /api/v1/projects/{project_id}',
    'PATCH /api/v1/projects/{project_id}',
    'DELETE /api/v1/projects/{project_id}',
    'GET /api/v1/projects/{project_id}/stats',
    'GET /api/v1/projects/{project_id}/teams',
    'POST /api/v1/projects/{project_id}/teams',
    'PATCH /api/v1/projects/{project_id}/teams/{team_id}',
    'DELETE /api/v1/projects/{project_id}/teams/{team_id}',
  ],
  'generations:write': [
    'POST /api/v1/generations',
    'GET /api/v1/generations',
    'GET /api/v1/generations/{generation_id}',
    'PATCH /api/v1/generations/{generation_id}',
    'DELETE /api/v1/generations/{generation_id}',
    'POST /api/v1/generations/{generation_id}/cancel',
    'POST /api/v1/generations/{generation_id}/favorite',
    'GET /api/v1/generations/{generation_id}/provenance',
    'GET /api/v1/generations/{generation_id}/media',
    'GET /api/v1/media/{media_id}',
    'GET /api/v1/media/{media_id}/content',
  ],
}
const scopeOf = (name: string): string | undefined =>
  Object.entries(actingRoutes).find(([, routes]) => routes.includes(name))?.[0]
/** Whom a service acts for, with a key that has every scope or, by `key`, another one. */
type Acting = { for: string | undefined; key?: string }

/** Fields that no request body may set, except on the routes listed in `settableFields`. */
const forbiddenFields: Record<string, unknown> = {
  owner_id: unknownId,
  role: 'admin',
  plan: 'enterprise',
  team_id: unknownId,
  status: 'completed',
  email: 'other@example.com',
  email_verified: true,
  password: 'another password',
}
const settableFields: Record<string, readonly string[]> = {
  'POST /api/v1/auth/verify-email': ['email'],
  'POST /api/v1/auth/password-reset': ['email'],
  'POST /api/v1/auth/email': ['email'],
  'POST /api/v1/auth/reauthenticate': ['password'],
  'POST /api/v1/projects/{project_id}/transfer': ['owner_id'],
  'POST /api/v1/projects/{project_id}/teams': ['team_id'],
  'PATCH /api/v1/teams/{team_id}/members/{user_id}': ['role'],
  'POST /api/v1/teams/{team_id}/invitations': ['role', 'email'],
  'POST /api/v1/auth/register': ['email', 'password'],
  'POST /api/v1/auth/login': ['email', 'password'],
  'POST /api/v1/users': ['plan', 'email'],
  'PATCH /api/v1/users/{user_id}': ['role', 'plan', 'email_verified'],
}

const refusal = ({ status, body }: Answer) => (status < 400 ? 'ok' : `${status} ${body?.code}`)

describe('the authorization matrix', () => {
  const clock = manualClock(Date.now())
  let app: TestApp
  let client: Api
  let document: Document
  let by: Record<Name, Person>
  let tokens: Record<string, string | undefined>
  let keys: Record<'check' | 'list' | 'acting', string>
  /** Keys with every scope to act for users but one. */
  let keysWithout: Record<string, string>
  let inactive: Record<'suspended' | 'closed', string>
  let world: World

  const createAt = async (path: string, body: object, { token }: Person) => {
    const answer = await client.post(`/api/v1${path}`, body, { token })
    expect([path, refusal(answer)]).toEqual([path, 'ok'])
    return answer.body
  }
  const join = async (team: string, person: Person, role: string, inviter = by.owner) => {
    const { secret } = await createAt(`/teams/${team}/invitations`, { email: person.email, role }, inviter)
    await createAt('/teams/invitations/accept', { secret }, person)
  }
  const leave = async (team: string, { token }: Person) => {
    const { status } = await client.post(`/api/v1/teams/${team}/leave`, undefined, { token })
    expect(status).toBe(204)
  }
  /** Stores a result for a generation, as a finished job would have done. */
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
  /** A project with a write grant for a team that the project's owner is not a member of. */
  const share = async (team: string, person: Person, visibility: string) => {
    const { id } = await createAt('/projects', { name: 'A project', visibility }, person)
    const generation = await createAt('/generations', { ...newGeneration, project_id: id }, person)
    const media = await complete(await createAt('/generations', { ...newGeneration, project_id: id }, person))
    await join(team, person, 'admin')
    await createAt(`/projects/${id}/teams`, { team_id: team, access_level: 'write' }, person)
    await leave(team, person)
    const link = await createAt(`/media/${media}/share-links`, {}, person)
    return [id, generation.id, media, link.id] as const
  }
  /** An operator and the owner of the team have each a webhook, for which the arrival of a member was recorded. */
  const addWebhooks = async (team: string) => {
    const { admin: sql } = app.services.database
    await sql`delete from webhooks`
    const webhook = (await createAt('/webhooks', newWebhook, by.operator)).id
    const teamWebhook = (await createAt(`/teams/${team}/webhooks`, newWebhook, by.owner)).id
    await sql`insert into team_members (team_id, user_id, role) values (${team}, ${by.other.id}, 'viewer')`
    await sql`delete from team_members where team_id = ${team} and user_id = ${by.other.id}`
    const eventOf = async (id: string) => {
      const [row] = await sql<{ id: string }[]>`select event_id as id from webhook_deliveries where webhook_id = ${id}`
      return row?.id ?? unknownId
    }
    return { webhook, event: await eventOf(webhook), teamWebhook, teamEvent: await eventOf(teamWebhook) }
  }
  const build = async (): Promise<World> => {
    const { id: team } = await createAt('/teams', { name: 'A team' }, by.owner)
    for (const role of roles.slice(1)) await join(team, by[role], role)
    const [project, generation, media, shareLink] = await share(team, by.maker, 'team-only')
    const [hiddenProject, hiddenGeneration, hiddenMedia, hiddenShareLink] = await share(team, by.other, 'private')
    const guest = { email: 'guest@example.com', role: 'viewer' }
    const { token } = by.maker
    const session = (await client.get('/api/v1/auth/sessions', { token })).body.items[0].id
    const putFlag = client.put(
      '/api/v1/security/feature-flags/matrix',
      { enabled: false },
      { token: by.operator.token },
    )
    expect((await putFlag).status).toBeLessThan(300)
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
      spareTeam: (await createAt('/teams', { name: 'Another' }, by.maker)).id,
      invitation: (await createAt(`/teams/${team}/invitations`, guest, by.owner)).id,
      serviceKey: (await createAt('/service-keys', { name: 'k', scopes: ['authorization:list'] }, by.operator)).id,
      block: (
        await createAt(
          '/security/blocks',
          { kind: 'address', value: `2001:db8:${randomBytes(4).toString('hex').replace(/^..../, '$&:')}::1` },
          by.operator,
        )
      ).id,
      incident: (
        await createAt(
          '/security/incidents',
          { severity: 'low', subject: { type: 'dependency', id: 'redis' } },
          by.operator,
        )
      ).id,
      session,
      ...(await addWebhooks(team)),
      ids: Object.fromEntries(people.map((name) => [name, by[name].id])) as Record<Name, string>,
    }
  }

  beforeAll(async () => {
    app = await startApp({
      ...createMailbox().options,
      clock,
      safePost: async () => ({ status: 204, retryAfter: undefined }),
    })
    client = api(app.baseUrl)
    document = (await client.get('/docs/json')).body
    const expired = await register(client)
    clock.advance(901_000)
    const entries = await Promise.all(people.map(async (name) => [name, await register(client)] as const))
    by = Object.fromEntries(entries) as Record<Name, Person>
    const [suspended, closed] = await Promise.all([register(client), register(client)])
    suspendedId = suspended.id
    invitedId = (await register(client)).id
    await app.services.database.admin`update users set password_hash = null where id = ${invitedId}`
    await app.services.database.admin`update users set role = 'admin' where id = ${by.operator.id}`
    await app.services.database.admin`update users set email_verified_at = now()`
    world = await build()
    for (const person of [suspended, closed]) await join(world.team, person, 'admin')
    await app.services.database.admin`update users set status = 'suspended' where id = ${suspended.id}`
    expect((await client.delete('/api/v1/auth/me', { token: closed.token })).status).toBe(204)
    // The row was changed behind the service's back: wait until the cached account has expired.
    clock.advance(300_000)
    inactive = { suspended: suspended.id, closed: closed.id }
    const keyFor = async (...scopes: string[]) =>
      (await createAt('/service-keys', { name: 'k', scopes }, by.operator)).key as string
    const scopes = Object.keys(actingRoutes)
    keys = {
      check: await keyFor('authorization:check'),
      list: await keyFor('authorization:list'),
      acting: await keyFor(...scopes),
    }
    keysWithout = {}
    for (const scope of scopes)
      keysWithout[scope] = await keyFor(...scopes.filter((each) => each !== scope), 'performance:read')
    const [head, , signature] = by.maker.token.split('.')
    const [, payload] = by.owner.token.split('.')
    tokens = {
      anonymous: undefined,
      expired: expired.token,
      forged: `${head}.${payload}.${signature}`,
      suspended: suspended.token,
      closed: closed.token,
      ...Object.fromEntries(people.map((name) => [name, by[name].token])),
    }
  }, 60_000)
  afterAll(() => app?.close())

  const tokenOf = (subject: Subject, name: string) =>
    subject === 'service' ? (/accessible|who|search/.test(name) ? keys.check : keys.list) : tokens[subject]

  const openStream = async (target: string, { token, headers: given }: Sending): Promise<Answer> => {
    const headers = { ...given, ...(token !== undefined && { authorization: `Bearer ${token}` }) }
    const response = await fetch(`${app.baseUrl}${target}`, { headers })
    if (response.status >= 400)
      return { status: response.status, headers: response.headers, body: await response.json() }
    await response.body?.cancel()
    return { status: response.status, headers: response.headers, body: undefined }
  }
  const send = (
    name: string,
    { path = {}, query = '', body, picture }: RequestParts,
    token: string | undefined,
    acting?: Acting,
  ): Promise<Answer> => {
    const [method = '', template = ''] = name.split(' ')
    const target = template.replaceAll(/\{(\w+)\}/g, (_, each: string) => path[each] ?? unknownId) + query
    const headers: Record<string, string> = acting?.for === undefined ? {} : { 'velro-user': acting.for }
    const sending = { headers, ...(token !== undefined && { token }) }
    if (picture !== undefined) {
      return client.post(target, picture, { ...sending, headers: { ...headers, 'content-type': 'image/png' } })
    }
    // A stream does not end by itself: read its status and cancel it.
    if (target.endsWith('/stream')) return openStream(target, sending)
    if (method === 'GET') return client.get(target, sending)
    if (method === 'DELETE') return client.delete(target, sending)
    if (method === 'PUT') return client.put(target, body, sending)
    return method === 'PATCH' ? client.patch(target, body, sending) : client.post(target, body, sending)
  }

  /** The answer the table expects for one caller: 'open', 'ok', or the refusal. */
  const expected = (name: string, entry: Entry, subject: Subject, target: 'shared' | 'hidden'): string => {
    if (entry.needs === 'nothing') return 'open'
    if (outsiders.includes(subject as never)) return '401 identity.not_signed_in'
    if (subject === 'service') {
      return entry.allowsServices || entry.needs === 'service' || scopeOf(name) !== undefined
        ? '403 service_key.scope_missing'
        : '403 access.people_only'
    }
    const person = subject as Name
    if ('on' in entry) {
      const may = mayDo[target][person]
      if (!may.includes('read')) return `404 ${entry.on}.not_found`
      if (entry.ownerOnly && person !== 'maker') return '403 access.denied'
      return may.includes(entry.needs) ? 'ok' : '403 access.denied'
    }
    if (entry.needs === 'session') return 'ok'
    if (entry.needs === 'service') return '403 access.services_only'
    if (entry.needs === 'operator') return person === 'operator' ? 'ok' : '403 access.admins_only'
    if (entry.needs === 'own') return person === entry.of ? 'ok' : entry.otherwise
    const role = roles.find((each) => each === person)
    if (role === undefined) return '404 team.not_found'
    if (roles.indexOf(role) > roles.indexOf(entry.atLeast)) return '403 team.role_too_low'
    return entry.otherwise?.[role] ?? 'ok'
  }

  const operationScope = ({ operation }: Route) => operation['x-scope']

  const comparable = ({ status, headers, body }: Answer, ids: readonly string[]) => {
    const text = ids.reduce((rest, id) => rest.replaceAll(id, '<id>'), JSON.stringify({ ...body, request_id: '' }))
    return { status, text, headers: [...headers].filter(([name]) => !['date', 'x-request-id'].includes(name)) }
  }

  test('covers exactly the routes of the OpenAPI document', () => {
    expect(Object.keys(table).sort()).toEqual(routesOf(document).map(nameOf).sort())
  })

  const inTarget = (given: World, target: 'shared' | 'hidden'): World =>
    target === 'shared'
      ? given
      : {
          ...given,
          project: given.hiddenProject,
          generation: given.hiddenGeneration,
          media: given.hiddenMedia,
          shareLink: given.hiddenShareLink,
        }

  /** The id of the resource the request names in its path, query or body. */
  const resourceIdOf = (entry: Entry, given: World): string | undefined => {
    if ('on' in entry) return given[entry.on]
    if (entry.needs === 'role') return given.team
    return entry.needs === 'own' ? entry.resource?.(given) : undefined
  }

  /** `acting`: a service acts for the subject. */
  const problemsOf = async (
    name: string,
    entry: Entry,
    subject: Subject,
    target: 'shared' | 'hidden',
    acting?: Acting,
  ) => {
    const given = inTarget(world, target)
    const call = entry.call?.(given) ?? {}
    const token = acting === undefined ? tokenOf(subject, name) : keys.acting
    const answer = await send(name, call, token, acting)
    const actual = refusal(answer)
    const expectedAnswer = expected(name, entry, subject, target)
    const what = `${name} ${JSON.stringify(call.body ?? '')} on ${target} ${acting ? 'for' : 'as'} ${subject}`
    const problems: string[] = []
    const isRight =
      expectedAnswer === 'open'
        ? answer.status < 500 && actual !== '401 identity.not_signed_in'
        : actual === expectedAnswer
    if (!isRight) problems.push(`${what}: ${actual}, expected ${expectedAnswer}`)
    const resourceId = resourceIdOf(entry, given)
    if (answer.status === 404 && resourceId !== undefined) {
      const unknownResourceId = randomUUID()
      const other = JSON.parse(JSON.stringify(call).replaceAll(resourceId, unknownResourceId))
      const never = await send(name, other, token, acting)
      const [seen, unseen] = [comparable(answer, [resourceId]), comparable(never, [unknownResourceId])]
      if (!Bun.deepEquals(seen, unseen)) problems.push(`${what}: ${seen.text}, but for an unknown id ${unseen.text}`)
    }
    // An accepted request may have changed the fixture, so the next request gets a fresh one.
    if (actual === 'ok' && !name.startsWith('GET') && 'call' in entry && entry.needs !== 'session')
      world = await build()
    return problems
  }

  for (const [name, entries] of Object.entries(table)) {
    test(`${name} answers every kind of caller as the table says`, async () => {
      const problems: string[] = []
      for (const entry of entries) {
        for (const target of 'on' in entry ? (['shared', 'hidden'] as const) : (['shared'] as const)) {
          for (const subject of [...outsiders, 'service' as const, ...(entry.endsOwnAccess ? [] : people)]) {
            // Ending its own session would sign the maker out. Other tests cover that.
            if (entry.needs === 'own' && subject === entry.of) continue
            // The owner of the private project is in no team, so the transfer and grant requests of the table do not apply.
            if (target === 'hidden' && subject === 'other' && entry.needs === 'admin') continue
            problems.push(...(await problemsOf(name, entry, subject, target)))
          }
        }
      }
      expect(problems).toEqual([])
    }, 60_000)
  }

  test('documents the scope and the credential of exactly the routes that a service may call for a user', () => {
    const documented = routesOf(document).filter(({ operation }) => operation['x-scope'] !== undefined)
    expect(documented.map((route) => `${operationScope(route)} ${nameOf(route)}`).sort()).toEqual(
      Object.entries(actingRoutes)
        .flatMap(([scope, routes]) => routes.map((name) => `${scope} ${name}`))
        .sort(),
    )
    for (const { operation } of documented) {
      expect(operation.security).toContainEqual({ service_key: [] })
      expect(operation.parameters).toContainEqual(expect.objectContaining({ in: 'header', name: 'Velro-User' }))
    }
  })

  for (const [name, entries] of Object.entries(table)) {
    const scope = scopeOf(name)
    const isForPeople = (entry: Entry) => !entry.allowsServices && !['nothing', 'service'].includes(entry.needs)
    if (!entries.some(isForPeople)) continue

    test(`${name} ${scope === undefined ? 'refuses a service, whomever it acts for' : 'answers a service as the user for whom it acts'}`, async () => {
      const problems: string[] = []
      const expectAnswer = async (entry: Entry, acting: Acting, wanted: string) => {
        const answer = refusal(await send(name, entry.call?.(world) ?? {}, acting.key ?? keys.acting, acting))
        if (answer !== wanted) problems.push(`${name} ${JSON.stringify(acting)}: ${answer}, expected ${wanted}`)
      }
      for (const entry of entries) {
        if (scope === undefined) {
          for (const id of [undefined, unknownId, 'x', ...Object.values(inactive), ...Object.values(world.ids)])
            await expectAnswer(entry, { for: id }, '403 access.people_only')
          continue
        }
        const key = keysWithout[scope] ?? ''
        for (const id of [by.maker.id, by.operator.id, undefined])
          await expectAnswer(entry, { for: id, key }, '403 service_key.scope_missing')
        for (const id of [undefined, '', 'x', by.maker.id.toUpperCase(), `${by.maker.id}, ${by.owner.id}`])
          await expectAnswer(entry, { for: id }, '422 request.invalid')
        for (const id of [unknownId, world.project, ...Object.values(inactive)])
          await expectAnswer(entry, { for: id }, '403 service_key.user_not_active')
        for (const target of 'on' in entry ? (['shared', 'hidden'] as const) : (['shared'] as const)) {
          for (const person of people) {
            if (target === 'hidden' && person === 'other' && entry.needs === 'admin') continue
            problems.push(...(await problemsOf(name, entry, person, target, { for: by[person].id })))
          }
        }
      }
      expect(problems).toEqual([])
    }, 60_000)
  }

  test('answers a caller without a valid credential before anything else of the request, which is not read', async () => {
    const wrong: string[] = []
    const noKey = `vsk_${Buffer.alloc(48, 7).toString('base64url')}`
    const credentials = { ...Object.fromEntries(outsiders.map((name) => [name, tokens[name]])), noKey, broken: 'x.y.z' }
    const json = { 'content-type': 'application/json' }
    const length = (bytes: number) => ({ 'content-length': String(bytes), expect: '100-continue' })
    // Each is refused with another code where the caller is signed in: 413, 413, 415, 415, 400, 422 or 400.
    const bodies: Record<string, { headers: Record<string, string>; parts: string[] }> = {
      'announced to be too large': { headers: { ...json, ...length(2 ** 30) }, parts: [] },
      'of unknown length': { headers: { ...json, 'transfer-encoding': 'chunked' }, parts: ['1\r\n{\r\n0\r\n\r\n'] },
      'of another type': { headers: { 'content-type': 'text/plain', ...length(2) }, parts: [] },
      encoded: { headers: { ...json, 'content-encoding': 'gzip', ...length(2) }, parts: [] },
      // A smaller one is read before the session is looked up.
      'that never comes': { headers: { ...json, ...length(1_025) }, parts: [] },
      'that is missing': { headers: json, parts: [] },
    }
    for (const [name, [entry]] of Object.entries(table)) {
      if (entry === undefined || entry.needs === 'nothing') continue
      const [method = '', template = ''] = name.split(' ')
      const target = template.replaceAll(/\{\w+\}/g, 'no-id') + (method === 'GET' ? '?no=such&limit=x' : '')
      const tried = ['GET', 'DELETE'].includes(method) ? { 'of no body': { headers: {}, parts: [] } } : bodies
      for (const [kind, token] of Object.entries(credentials)) {
        for (const [body, { headers, parts }] of Object.entries(tried)) {
          const authorization = token === undefined ? {} : { authorization: `Bearer ${token}` }
          const answer = await sendRaw(app.baseUrl, [
            headOf(method, target, { ...authorization, ...headers }),
            ...parts,
          ])
          const code = /"code":"([^"]+)"/.exec(answer?.body ?? '')?.[1]
          const seen = `${answer?.status} ${code}`
          if (seen !== '401 identity.not_signed_in') wrong.push(`${name} with a body ${body} as ${kind}: ${seen}`)
        }
      }
    }
    expect(wrong).toEqual([])
  }, 60_000)

  test('refuses every body field that only the service may set with 422, also from owners and operators, where they reach the route', async () => {
    const wrong: string[] = []
    for (const [name, entries] of Object.entries(table)) {
      if (name.includes('/access/v1/')) continue
      for (const entry of entries) {
        const call = entry.call?.(world)
        if (call?.body === undefined) continue
        for (const [word, value] of Object.entries(forbiddenFields)) {
          if (settableFields[name]?.includes(word)) continue
          for (const subject of ['maker', 'owner', 'operator'] as const) {
            const body = { ...call.body, [word]: value }
            if (scopeOf(name) !== undefined) {
              const acted = refusal(await send(name, { ...call, body }, keys.acting, { for: by[subject].id }))
              if (acted !== '422 request.invalid') wrong.push(`${name} ${word} for ${subject}: ${acted}`)
            }
            const answer = await send(name, { ...call, body }, by[subject].token)
            const isReached = entry.needs !== 'operator' || subject === 'operator'
            if (refusal(answer) !== (isReached ? '422 request.invalid' : '403 access.admins_only'))
              wrong.push(`${name} ${word} as ${subject}: ${refusal(answer)}`)
          }
        }
      }
    }
    expect(wrong).toEqual([])
  })

  test('keeps resources out of every list of an operator, of a stranger and of a team with a dormant grant', async () => {
    world = await build()
    const { ids: _, session: __, serviceKey: ___, block: ____, ...all } = world
    const { hiddenProject, hiddenGeneration } = world
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
