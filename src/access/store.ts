import type { Sql } from '../platform/postgres.ts'
import { type Fact, type FactKey, type FactKind, factKey } from './model.ts'

/** What Postgres said: a fact, or null where there is no such thing. */
export type LoadedFacts = ReadonlyMap<FactKey, Fact[FactKind] | null>

type Wanted = { readonly kind: FactKind; readonly id: string }

type Row = {
  kind: FactKind
  id: string
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
}

export type FactStore = { load(wanted: readonly Wanted[]): Promise<LoadedFacts> }

export const createFactStore = (sql: Sql): FactStore => ({
  /**
   * The facts of a cold question in one statement, however many things it is about: a session brings its account along,
   * a generation its project. Every join is by primary key; nothing is locked.
   */
  load: async (wanted) => {
    const kinds = wanted.map(({ kind }) => kind)
    const ids = wanted.map(({ id }) => id)
    const rows = await sql<Row[]>`
      select w.kind, w.id,
             s.id as s_id, s.ended_at is not null as s_ended, least(s.idle_expires_at, s.expires_at) as s_expires_at,
             u.id as u_id, u.status as u_status, u.role as u_role, u.plan as u_plan,
             g.id as g_id, g.owner_id as g_owner_id, g.project_id as g_project_id, g.status as g_status,
             p.id as p_id, p.owner_id as p_owner_id, p.visibility as p_visibility
        from unnest(${kinds}::text[], ${ids}::uuid[]) as w (kind, id)
        left join sessions s on w.kind = 'session' and s.id = w.id
        left join users u on u.id = case w.kind when 'session' then s.user_id when 'account' then w.id end
        left join generations g on w.kind = 'generation' and g.id = w.id
        left join projects p on p.id = case w.kind when 'generation' then g.project_id when 'project' then w.id end`
    const facts = new Map<FactKey, Fact[FactKind] | null>(wanted.map(({ kind, id }) => [factKey(kind, id), null]))
    for (const row of rows) {
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
        facts.set(factKey('project', row.p_id), { ownerId: row.p_owner_id, visibility: row.p_visibility })
      }
    }
    return facts
  },
})
