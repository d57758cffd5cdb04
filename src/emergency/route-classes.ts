import { type Mode, modes } from '../access/policy/modes.ts'
import type { FaultCode } from '../fault.ts'

/** How each mode refuses a request. */
export const refusals = {
  normal: undefined,
  'no-register': 'mode.no_register',
  'read-only': 'mode.read_only',
  lockdown: 'mode.lockdown',
} as const satisfies Readonly<Record<Mode, FaultCode | undefined>>

/**
 * Which requests a mode lets pass: all; those of signed-in operators; changes that take access away, which the route finds out
 * by itself; none.
 */
export type Pass = 'all' | 'operators' | 'narrowing' | 'none'

const pass = (noRegister: Pass, readOnly: Pass, lockdown: Pass): Readonly<Record<Mode, Pass>> => ({
  normal: 'all',
  'no-register': noRegister,
  'read-only': readOnly,
  lockdown,
})

/** What each mode does to each class of routes: no-register, read-only, lockdown. */
export const passes = {
  /** Probes, public keys and documentation. Blocked networks pass too. */
  free: pass('all', 'all', 'all'),
  /** Opens or renews a session. In a lockdown only operators get one; see `SessionAdmission`. */
  sign_in: pass('all', 'all', 'all'),
  /** What a session shows about itself and its account. */
  session: pass('all', 'all', 'operators'),
  sign_out: pass('all', 'all', 'all'),
  /** Decides for other services. In a lockdown the decision is a denial. */
  check: pass('all', 'all', 'all'),
  read: pass('all', 'all', 'none'),
  /** Takes access away, and gives none. */
  revoke: pass('all', 'all', 'operators'),
  /** May take access away, or give some. */
  narrow: pass('all', 'narrowing', 'none'),
  /** By operators, for the operation of the service. */
  operate: pass('all', 'all', 'all'),
  /** By operators, and may take access away, or give some. */
  operate_narrow: pass('all', 'narrowing', 'all'),
  write: pass('all', 'none', 'none'),
  register: pass('none', 'none', 'none'),
} as const satisfies Readonly<Record<string, Readonly<Record<Mode, Pass>>>>

export type RouteClass = keyof typeof passes

/** The class of each route, as the OpenAPI document names it. A test compares the two. */
export const routeClasses: Readonly<Record<string, RouteClass>> = {
  'GET /health': 'free',
  'GET /ready': 'free',
  'GET /.well-known/jwks.json': 'free',
  'GET /.well-known/authzen-configuration': 'free',

  'POST /api/v1/auth/register': 'register',
  'POST /api/v1/auth/account-invitation/confirm': 'write',
  'POST /api/v1/auth/verify-email': 'write',
  'POST /api/v1/auth/verify-email/confirm': 'write',
  'POST /api/v1/auth/email': 'write',
  'POST /api/v1/auth/email/confirm': 'write',
  'POST /api/v1/auth/email/undo': 'revoke',
  'POST /api/v1/auth/password': 'revoke',
  'POST /api/v1/auth/password-reset': 'revoke',
  'POST /api/v1/auth/password-reset/confirm': 'revoke',

  'POST /api/v1/auth/login': 'sign_in',
  'POST /api/v1/auth/login/second-factor': 'sign_in',
  'POST /api/v1/auth/login/passkey/options': 'sign_in',
  'POST /api/v1/auth/login/passkey': 'sign_in',
  'POST /api/v1/auth/refresh': 'sign_in',
  'GET /api/v1/auth/identity-providers': 'sign_in',
  'GET /api/v1/auth/identity-providers/{provider_id}/start': 'sign_in',
  'GET /api/v1/auth/identity-providers/{provider_id}/callback': 'sign_in',
  'POST /api/v1/auth/identity-providers/sign-in': 'sign_in',
  'POST /api/v1/auth/identity-providers/{provider_id}/start': 'session',
  'POST /api/v1/auth/identity-providers/reauthenticate': 'session',
  'POST /api/v1/auth/reauthenticate/options': 'session',
  'POST /api/v1/auth/reauthenticate': 'session',
  'POST /api/v1/auth/logout': 'sign_out',
  'POST /api/v1/auth/logout-all': 'sign_out',
  'DELETE /api/v1/auth/sessions/{session_id}': 'sign_out',

  'GET /api/v1/auth/me': 'session',
  'GET /api/v1/auth/audit': 'session',
  'GET /api/v1/auth/me/quotas': 'session',
  'GET /api/v1/feature-flags': 'session',
  'GET /api/v1/auth/sessions': 'session',
  'GET /api/v1/auth/second-factors': 'session',
  'GET /api/v1/auth/linked-identities': 'session',
  'PATCH /api/v1/auth/me': 'write',
  'DELETE /api/v1/auth/me': 'revoke',
  'POST /api/v1/auth/me/export': 'read',
  'POST /api/v1/auth/linked-identities': 'write',
  'DELETE /api/v1/auth/linked-identities/{linked_identity_id}': 'revoke',
  'POST /api/v1/auth/totp': 'write',
  'POST /api/v1/auth/totp/confirm': 'write',
  'DELETE /api/v1/auth/totp': 'revoke',
  'POST /api/v1/auth/recovery-codes': 'write',
  'POST /api/v1/auth/passkeys/options': 'write',
  'POST /api/v1/auth/passkeys': 'write',
  'PATCH /api/v1/auth/passkeys/{passkey_id}': 'write',
  'DELETE /api/v1/auth/passkeys/{passkey_id}': 'revoke',

  'POST /api/v1/authorization/check': 'check',
  'POST /api/v1/authorization/check/batch': 'check',
  'POST /api/v1/authorization/explain': 'check',
  'GET /api/v1/authorization/accessible': 'read',
  'GET /api/v1/authorization/who': 'read',
  'POST /access/v1/evaluation': 'check',
  'POST /access/v1/evaluations': 'check',
  'POST /access/v1/search/subject': 'read',
  'POST /access/v1/search/resource': 'read',
  'POST /access/v1/search/action': 'check',

  'GET /api/v1/service-keys': 'operate',
  'POST /api/v1/service-keys': 'write',
  'PATCH /api/v1/service-keys/{service_key_id}': 'operate',
  'DELETE /api/v1/service-keys/{service_key_id}': 'operate',

  'GET /api/v1/security/mode': 'operate',
  'PUT /api/v1/security/mode': 'operate',
  'GET /api/v1/security/blocks': 'operate',
  'POST /api/v1/security/blocks': 'operate',
  'DELETE /api/v1/security/blocks/{block_id}': 'operate',
  'GET /api/v1/security/breakers': 'operate',
  'PATCH /api/v1/security/breakers/{dependency}': 'operate',
  'GET /api/v1/security/limits': 'operate',
  'POST /api/v1/security/limits/lift': 'operate',
  'GET /api/v1/security/audit': 'operate',
  'GET /api/v1/security/audit/verify': 'operate',
  'POST /api/v1/security/audit/export': 'operate',
  'GET /api/v1/security/feature-flags': 'operate',
  'GET /api/v1/security/feature-flags/{name}': 'operate',
  'PUT /api/v1/security/feature-flags/{name}': 'operate',
  'DELETE /api/v1/security/feature-flags/{name}': 'operate',
  'GET /api/v1/security/feature-flags/{name}/versions': 'operate',
  'POST /api/v1/security/feature-flags/{name}/restore': 'operate',
  'GET /api/v1/security/incidents': 'operate',
  'POST /api/v1/security/incidents': 'operate',
  'GET /api/v1/security/incidents/{incident_id}': 'operate',
  'PATCH /api/v1/security/incidents/{incident_id}': 'operate',
  'GET /api/v1/security/flags': 'operate',
  'PUT /api/v1/security/flags': 'operate',
  'GET /api/v1/performance/metrics': 'operate',
  'GET /api/v1/performance/alerts': 'operate',
  'GET /metrics': 'operate',
  'GET /api/v1/performance/health': 'operate',
  'GET /api/v1/performance/report': 'operate',
  'GET /api/v1/performance/prd-compliance': 'operate',
  'GET /api/v1/performance/stream': 'operate',

  'GET /api/v1/users': 'operate',
  'POST /api/v1/users': 'write',
  'GET /api/v1/users/{user_id}': 'operate',
  'PATCH /api/v1/users/{user_id}': 'operate_narrow',
  'GET /api/v1/users/{user_id}/quotas': 'operate',
  'POST /api/v1/users/{user_id}/invitation': 'write',
  'POST /api/v1/users/{user_id}/password-reset': 'operate',
  'DELETE /api/v1/users/{user_id}/sessions': 'operate',
  'DELETE /api/v1/users/{user_id}/second-factors': 'operate',
  'GET /api/v1/users/{user_id}/sign-in-failures': 'operate',
  'DELETE /api/v1/users/{user_id}/sign-in-failures': 'operate',

  'GET /api/v1/webhooks': 'operate',
  'POST /api/v1/webhooks': 'write',
  'GET /api/v1/webhooks/{webhook_id}': 'operate',
  'PATCH /api/v1/webhooks/{webhook_id}': 'write',
  'DELETE /api/v1/webhooks/{webhook_id}': 'operate',
  'POST /api/v1/webhooks/{webhook_id}/secret': 'operate',
  'GET /api/v1/webhooks/{webhook_id}/deliveries': 'operate',
  'POST /api/v1/webhooks/{webhook_id}/deliveries/{event_id}/replay': 'write',
  'POST /api/v1/webhooks/{webhook_id}/replay': 'write',

  'GET /api/v1/teams': 'read',
  'POST /api/v1/teams': 'write',
  'GET /api/v1/teams/{team_id}': 'read',
  'PATCH /api/v1/teams/{team_id}': 'narrow',
  'DELETE /api/v1/teams/{team_id}': 'revoke',
  'GET /api/v1/teams/{team_id}/audit': 'read',
  'GET /api/v1/teams/{team_id}/members': 'read',
  'GET /api/v1/teams/{team_id}/statistics': 'read',
  'PATCH /api/v1/teams/{team_id}/members/{user_id}': 'narrow',
  'DELETE /api/v1/teams/{team_id}/members/{user_id}': 'revoke',
  'POST /api/v1/teams/{team_id}/leave': 'revoke',
  'POST /api/v1/teams/{team_id}/transfer': 'revoke',
  'GET /api/v1/teams/{team_id}/invitations': 'read',
  'POST /api/v1/teams/{team_id}/invitations': 'write',
  'DELETE /api/v1/teams/{team_id}/invitations/{invitation_id}': 'revoke',
  'POST /api/v1/teams/invitations/accept': 'write',
  'POST /api/v1/teams/invitations/decline': 'revoke',
  'GET /api/v1/teams/{team_id}/webhooks': 'read',
  'POST /api/v1/teams/{team_id}/webhooks': 'write',
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}': 'read',
  'PATCH /api/v1/teams/{team_id}/webhooks/{webhook_id}': 'write',
  'DELETE /api/v1/teams/{team_id}/webhooks/{webhook_id}': 'revoke',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/secret': 'revoke',
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries': 'read',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries/{event_id}/replay': 'write',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/replay': 'write',

  'GET /api/v1/projects': 'read',
  'POST /api/v1/projects': 'write',
  'GET /api/v1/projects/{project_id}': 'read',
  'PATCH /api/v1/projects/{project_id}': 'narrow',
  'DELETE /api/v1/projects/{project_id}': 'revoke',
  'POST /api/v1/projects/{project_id}/transfer': 'revoke',
  'GET /api/v1/projects/{project_id}/stats': 'read',
  'GET /api/v1/projects/{project_id}/teams': 'read',
  'POST /api/v1/projects/{project_id}/teams': 'write',
  'PATCH /api/v1/projects/{project_id}/teams/{team_id}': 'narrow',
  'DELETE /api/v1/projects/{project_id}/teams/{team_id}': 'revoke',

  'GET /api/v1/generations': 'read',
  'POST /api/v1/generations': 'write',
  'GET /api/v1/generations/{generation_id}': 'read',
  'PATCH /api/v1/generations/{generation_id}': 'narrow',
  'DELETE /api/v1/generations/{generation_id}': 'revoke',
  'POST /api/v1/generations/{generation_id}/cancel': 'revoke',
  'POST /api/v1/generations/{generation_id}/favorite': 'write',
  'GET /api/v1/generations/{generation_id}/provenance': 'read',
  'GET /api/v1/generations/{generation_id}/stream': 'read',
  'POST /api/v1/generations/{generation_id}/stream-tickets': 'read',
  'GET /api/v1/generations/{generation_id}/media': 'read',

  'GET /api/v1/media': 'read',
  'POST /api/v1/media': 'write',
  'GET /api/v1/media/{media_id}': 'read',
  'DELETE /api/v1/media/{media_id}': 'revoke',
  'GET /api/v1/media/{media_id}/content': 'read',
  'POST /api/v1/media/links': 'read',
  'POST /api/v1/media/{media_id}/links': 'read',
  'GET /api/v1/media/{media_id}/share-links': 'read',
  'POST /api/v1/media/{media_id}/share-links': 'write',
  'DELETE /api/v1/media/{media_id}/share-links/{share_link_id}': 'revoke',

  'GET /api/v1/models': 'read',
  'GET /api/v1/models/{model_id}': 'read',
  'GET /api/v1/credits/balance': 'read',
  'GET /api/v1/credits/ledger': 'read',
  'POST /api/v1/credits/grants': 'write',
}

/** The refusals that a block or a mode can add to a route, for the OpenAPI document. */
export const restrictionFaultsOf = (name: string): readonly FaultCode[] => {
  const routeClass = routeClasses[name] ?? 'write'
  if (routeClass === 'free') return []
  const refusing = modes.filter((mode) => passes[routeClass][mode] !== 'all')
  // Who signs in is known late, so the table lets all pass; a person who is no operator is refused then.
  const signingIn: readonly Mode[] = routeClass === 'sign_in' ? ['lockdown'] : []
  const byMode = [...refusing, ...signingIn].flatMap((mode) => refusals[mode] ?? [])
  return ['access.blocked', ...byMode]
}
