import { Buffer } from 'node:buffer'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import {
  accessLevels,
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  grantId,
  levelActions,
  ownerActions,
  roleActions,
  teamRoles,
} from './model.ts'

/** What Postgres said: a fact, or null where there is no such thing. */
export type LoadedFacts = ReadonlyMap<FactKey, Fact[FactKind] | null>

/** One thing to be known. `id` names it (a grant is named by its project); `userId` says whose grant comes along. */
export type Wanted = { readonly kind: FactKind; readonly id: string; readonly userId: string | null }

type Row = {
  kind: FactKind
  id: string
  user_id: string | null
  s_id: string | null
  s_ended: boolean
  s_expires_at: Date
  u_id: string | null
  u_status: Fact['account']['status']
  u_role: Fact['account']['role']
  u_plan: Fact['account']['plan']
  g_id: string | null
  g_owner_id: string
  g_project_id: string | null
  g_status: Fact['generation']['status']
  p_id: string | null
  p_owner_id: string
  p_visibility: Fact['project']['visibility']
  p_allow_derivatives: boolean
  a_actions: number | null
  k_id: string | null
  k_secret_hash: Uint8Array
  k_scopes: Fact['service_key']['scopes']
  k_live: boolean
  k_expires_at: Date | null
}

export type FactStore = { load(wanted: readonly Wanted[]): Promise<LoadedFacts> }

export const createFactStore = (sql: Sql): FactStore => ({
  /**
   * The facts of a cold question in one statement, however many things and teams it is about: a session brings its
   * account along, a generation its project, a project what the person may do on it. Every row is found by its primary
   * key; nothing is locked. (What the person may do is no join, because a planner may take one by project alone, and read
   * everybody on it.)
   */
  load: async (wanted) => {
    const kinds = wanted.map(({ kind }) => kind)
    const ids = wanted.map(({ id }) => id)
    const users = wanted.map(({ userId }) => userId)
    const rows = await sql<Row[]>`
      select w.kind, w.id, w.user_id,
             s.id as s_id, s.ended_at is not null as s_ended, least(s.idle_expires_at, s.expires_at) as s_expires_at,
             u.id as u_id, u.status as u_status, u.role as u_role, u.plan as u_plan,
             g.id as g_id, g.owner_id as g_owner_id, g.project_id as g_project_id, g.status as g_status,
             p.id as p_id, p.owner_id as p_owner_id, p.visibility as p_visibility,
             p.allow_derivatives as p_allow_derivatives,
             (select a.actions from project_access a where a.user_id = w.user_id and a.project_id = p.id) as a_actions,
             k.id as k_id, k.secret_hash as k_secret_hash, k.scopes as k_scopes, k.revoked_at is null as k_live,
             k.expires_at as k_expires_at
        from unnest(${kinds}::text[], ${ids}::uuid[], ${users}::uuid[]) as w (kind, id, user_id)
        left join sessions s on w.kind = 'session' and s.id = w.id
        left join users u on u.id = case w.kind when 'session' then s.user_id when 'account' then w.id end
        left join generations g on w.kind = 'generation' and g.id = w.id
        left join projects p on p.id = case when w.kind = 'generation' then g.project_id
                                            when w.kind in ('project', 'grant') then w.id end
        left join service_keys k on w.kind = 'service_key' and k.id = w.id`
    const facts = new Map<FactKey, Fact[FactKind] | null>()
    for (const row of rows) {
      if (row.kind !== 'grant') facts.set(factKey(row.kind, row.id), null)
      if (row.s_id !== null && row.u_id !== null) {
        facts.set(factKey('session', row.s_id), {
          userId: row.u_id,
          ended: row.s_ended,
          expiresAtMs: row.s_expires_at.getTime(),
        })
      }
      if (row.u_id !== null) {
        facts.set(factKey('account', row.u_id), { status: row.u_status, role: row.u_role, plan: row.u_plan })
      }
      if (row.g_id !== null) {
        facts.set(factKey('generation', row.g_id), {
          ownerId: row.g_owner_id,
          projectId: row.g_project_id,
          status: row.g_status,
        })
      }
      if (row.p_id !== null) {
        facts.set(factKey('project', row.p_id), {
          ownerId: row.p_owner_id,
          visibility: row.p_visibility,
          allowDerivatives: row.p_allow_derivatives,
        })
      }
      const projectId = row.p_id ?? (row.kind === 'project' || row.kind === 'grant' ? row.id : null)
      if (row.user_id !== null && projectId !== null) {
        // No row is knowledge too: nothing but what is public.
        facts.set(factKey('grant', grantId(row.user_id, projectId)), row.a_actions ?? 0)
      }
      if (row.k_id !== null) {
        facts.set(factKey('service_key', row.k_id), {
          secretHash: Buffer.from(row.k_secret_hash).toString('base64url'),
          scopes: row.k_scopes,
          live: row.k_live,
          expiresAtMs: row.k_expires_at?.getTime() ?? null,
        })
      }
    }
    return facts
  },
})

type Rule = { kind: 'owner' | 'role' | 'access_level'; name: string; actions: number }

const rules: readonly Rule[] = [
  { kind: 'owner', name: 'project', actions: ownerActions },
  ...teamRoles.map((name) => ({ kind: 'role' as const, name, actions: roleActions[name] })),
  ...accessLevels.map((name) => ({ kind: 'access_level' as const, name, actions: levelActions[name] })),
]

/** A row of project_access that is not what the base tables say. */
export type AccessDifference = { user_id: string; project_id: string; actual: number | null; expected: number | null }

/**
 * Gives SQL its copy of the matrix. When that changed, everything is recomputed under a lock that lets nobody change
 * access meanwhile; else it is one statement and no lock. Of instances that start together one does the work.
 */
export const syncAccessRules = async (sql: Sql): Promise<void> => {
  const stored = await sql<Rule[]>`select kind, name, actions from access_rules`
  const known = new Map(stored.map(({ kind, name, actions }) => [`${kind} ${name}`, actions]))
  if (
    known.size === rules.length &&
    rules.every(({ kind, name, actions }) => known.get(`${kind} ${name}`) === actions)
  ) {
    return
  }
  await sql.begin(async (tx) => {
    await tx`lock table projects, project_grants, team_members in share row exclusive mode`
    await tx`delete from access_rules`
    await tx`insert into access_rules ${tx(rules as Rule[])}`
    await tx`select refresh_project_access(array(select distinct project_id from project_access_difference))`
  })
}

/** Recomputes everything from the base tables and lists what differs, up to 100: nothing, always. Reads all; for checks. */
export const findAccessDifferences = (sql: Sql): Promise<AccessDifference[]> =>
  sql<AccessDifference[]>`select user_id, project_id, actual, expected from project_access_difference limit 100`

/** The grant facts this transaction has changed so far, as its triggers noted them. */
export const touchedGrants = async (tx: TransactionSql): Promise<string[]> => {
  const rows = await tx<{ id: string }[]>`select touched_grants() as id`
  return rows.map(({ id }) => id)
}
