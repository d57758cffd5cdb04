import { Buffer } from 'node:buffer'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import { type AccessEvent, commonChannel, toTouched } from './bus.ts'
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
  maxGrants as usualMaxGrants,
} from './model.ts'

/** What Postgres said: a fact, or null where there is no such thing. */
export type LoadedFacts = ReadonlyMap<FactKey, Fact[FactKind] | null>

/** One thing to be known. `id` names it (a grant is named by its project); `userId` says whose grants come along. */
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

export type FactStore = { load(wanted: readonly Wanted[], options?: LoadOptions): Promise<LoadedFacts> }

/** Whose grants a load brings: each person's once, however many things it asks about. */
const peopleOf = (wanted: readonly Wanted[]): string[] => [
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

export const createFactStore = (sql: Sql, { maxGrants = usualMaxGrants }: StoreOptions = {}): FactStore => ({
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

const toEvent = ({ id, keys }: { id: string; keys: string[] }): AccessEvent => ({ id, touched: toTouched(keys) })

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

/**
 * Announces what this transaction has changed, to be heard when it commits: the event's id and the names of the facts,
 * or undefined where it changed none, unless `always`. `instance` is who waits for it to be heard.
 */
export const publishChange = async (
  tx: TransactionSql,
  instance: string,
  always = false,
): Promise<AccessEvent | undefined> => {
  const [row] = await tx<
    { id: string; keys: string[] }[]
  >`select id, keys from publish_access_event(${instance}, ${always})`
  return row && toEvent(row)
}

/** Events that stand: the outer cache has not confirmed yet that it forgot what they touched. */
export const createOutboxStore = (sql: Sql) => ({
  /** Those of these that stand. */
  listLeft: async (ids: readonly string[]): Promise<Set<string>> => {
    const rows = await sql<{ id: string }[]>`
      select id from access_events where id = any (${ids as string[]}::bigint[])`
    return new Set(rows.map(({ id }) => id))
  },

  /** Removes events and tells everybody so, in one statement: a row is never gone without being told of. */
  remove: async (ids: readonly string[], incarnation: string): Promise<void> => {
    await sql`
      with gone as (delete from access_events where id = any (${ids as string[]}::bigint[]))
      select pg_notify(${commonChannel}, ${`confirmed ${incarnation} ${ids.join(' ')}`})`
  },
})

export type OutboxStore = ReturnType<typeof createOutboxStore>

/** What the bus reads on its own connection, which knows no type of arrays: it would take one for text. */
export const readEvent = async (sql: Sql, id: string): Promise<AccessEvent | undefined> => {
  const [row] = await sql<{ id: string; keys: string[] }[]>`
    select id, to_jsonb(keys) as keys from access_events where id = ${id}`
  return row && toEvent(row)
}

export const readStandingEvents = async (sql: Sql): Promise<AccessEvent[]> =>
  (await sql<{ id: string; keys: string[] }[]>`select id, to_jsonb(keys) as keys from access_events`).map(toEvent)
