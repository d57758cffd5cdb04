import { Buffer } from 'node:buffer'
import type { Queryable } from '../../platform/postgres.ts'
import {
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  grantId,
  maxGrants as usualMaxGrants,
} from '../policy/facts/model.ts'

/** What Postgres said: a fact, or null where there is no such thing. */
export type LoadedFacts = ReadonlyMap<FactKey, Fact[FactKind] | null>

/** One thing to be known. `id` names it (a grant is named by its project); `userId` says whose grants come along. */
export type FactQuery = { readonly kind: FactKind; readonly id: string; readonly userId: string | null }

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
  m_id: string | null
  m_owner_id: string
  m_generation_id: string | null
  m_sha256: string
  m_content_type: string
  p_id: string | null
  p_owner_id: string
  p_visibility: Fact['project']['visibility']
  p_allow_derivatives: boolean
  a_actions: number | null
  /** Of the first row: each person's grants, null where they are many. */
  grants: Readonly<Record<string, Readonly<Record<string, number>> | null>> | null
  k_id: string | null
  k_secret_hash: Uint8Array
  k_scopes: Fact['service_key']['scopes']
  k_live: boolean
  k_expires_at: Date | null
}

type LoadOptions = {
  /** Goes by the effective rows that triggers keep (the default), or works out from the base tables what they should say. */
  readonly effective?: boolean
}

export type FactStore = { load(wanted: readonly FactQuery[], options?: LoadOptions): Promise<LoadedFacts> }

/** Whose grants a load brings: each person's once, however many things it asks about. */
const peopleOf = (wanted: readonly FactQuery[]): string[] => [
  ...new Set(
    wanted.flatMap(({ kind, id, userId }) => {
      if (kind === 'grants') return [id]
      return kind === 'grant' || userId === null ? [] : [userId]
    }),
  ),
]

type StoreOptions = {
  /** Who was granted more is asked about project by project. Default: as in the model. */
  readonly maxGrants?: number
}

export const createFactStore = (sql: Queryable, { maxGrants = usualMaxGrants }: StoreOptions = {}): FactStore => ({
  /**
   * The facts of a cold question in one statement, however many things and teams it is about: a session brings its
   * account along, media their generation, a generation its project, a person all that was granted to it. Every row is found by its primary key,
   * those of a person by an index that holds nothing else; of them no more are read than fit into a fact, and only who has
   * more is looked up on each project. Nothing is locked. (That lookup is no join, because a planner may take one by
   * project alone, and read everybody on it.)
   */
  load: async (wanted, { effective = true } = {}) => {
    const granted = effective ? sql`project_access` : sql`project_access_expected`
    const people = peopleOf(wanted)
    const kinds = wanted.map(({ kind }) => kind)
    const ids = wanted.map(({ id }) => id)
    const users = wanted.map(({ userId }) => userId)
    const rows = await sql<Row[]>`
      with people as materialized (
        select person.id, a.many, a.grants
          from unnest(${people}::uuid[]) as person (id)
         cross join lateral (
           select count(*) > ${maxGrants}::int as many,
                  coalesce(json_object_agg(project_id, actions), '{}') as grants
             from (select project_id, actions from ${granted} a
                    where a.user_id = person.id and not a.owned limit ${maxGrants + 1}::int) a
         ) a
      )
      select w.kind, w.id, w.user_id,
             s.id as s_id, s.ended_at is not null as s_ended, least(s.idle_expires_at, s.expires_at) as s_expires_at,
             u.id as u_id, u.status as u_status, u.role as u_role, u.plan as u_plan,
             g.id as g_id, g.owner_id as g_owner_id, g.project_id as g_project_id, g.status as g_status,
             m.id as m_id, m.owner_id as m_owner_id, m.generation_id as m_generation_id, m.sha256 as m_sha256,
             o.content_type as m_content_type,
             p.id as p_id, p.owner_id as p_owner_id, p.visibility as p_visibility,
             p.allow_derivatives as p_allow_derivatives,
             case when w.kind = 'grant' or w.user_id in (select id from people where many) then
               (select a.actions from ${granted} a where a.user_id = w.user_id and a.project_id = p.id)
             end as a_actions,
             case when w.place = 1 then
               (select json_object_agg(id, case when not many then grants end) from people)
             end as grants,
             k.id as k_id, k.secret_hash as k_secret_hash, k.scopes as k_scopes, k.revoked_at is null as k_live,
             k.expires_at as k_expires_at
        from unnest(${kinds}::text[], ${ids}::uuid[], ${users}::uuid[]) with ordinality as w (kind, id, user_id, place)
        left join sessions s on w.kind = 'session' and s.id = w.id
        left join users u on u.id = case w.kind when 'session' then s.user_id when 'account' then w.id end
        left join media m on w.kind = 'media' and m.id = w.id
        left join media_objects o on o.sha256 = m.sha256
        left join generations g on g.id = case w.kind when 'generation' then w.id when 'media' then m.generation_id end
        left join projects p on p.id = case when w.kind in ('generation', 'media') then g.project_id
                                            when w.kind in ('project', 'grant') then w.id end
        left join service_keys k on w.kind = 'service_key' and k.id = w.id`
    const facts = new Map<FactKey, Fact[FactKind] | null>()
    const many = new Set<string>()
    for (const { grants } of rows) {
      for (const [id, granted] of Object.entries(grants ?? {})) {
        facts.set(factKey('grants', id), granted === null ? 'many' : { granted })
        if (granted === null) many.add(id)
      }
    }
    for (const row of rows) {
      if (row.kind !== 'grant' && row.kind !== 'grants') facts.set(factKey(row.kind, row.id), null)
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
      if (row.m_id !== null) {
        facts.set(factKey('media', row.m_id), {
          ownerId: row.m_owner_id,
          generationId: row.m_generation_id,
          sha256: row.m_sha256,
          contentType: row.m_content_type,
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
      if (row.user_id !== null && projectId !== null && (row.kind === 'grant' || many.has(row.user_id))) {
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
