import { lowestId } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Fragment, Sql } from '../../platform/postgres.ts'

/** Rows of a part are read in pages of this size. */
const pageSize = 500

/** A row of a part: an id, by which the pages go on, and what the archive shows. */
export type ExportedRow = { readonly id: string; readonly content: unknown }

export type ExportedMedia = ExportedRow & {
  readonly sha256: string
  readonly content_type: string
  readonly created_at: Date
}

/** A page of rows after an id. Undefined after the last page. */
export type ReadPage<R extends ExportedRow> = (deadline: Deadline, after: string) => Promise<readonly R[]>

/** Reads all pages, one after the other. */
export async function* pagesOf<R extends ExportedRow>(
  read: ReadPage<R>,
  startDeadline: () => Deadline,
): AsyncGenerator<readonly R[]> {
  let after = lowestId
  for (;;) {
    const rows = await read(startDeadline(), after)
    if (rows.length > 0) yield rows
    const last = rows.at(-1)
    if (last === undefined || rows.length < pageSize) return
    after = last.id
  }
}

type Part = (select: (userId: string, after: string) => Fragment) => (userId: string) => ReadPage<ExportedRow>

/** How the person signs in, and where. */
const createSignInParts = (sql: Sql, part: Part) => ({
  former_addresses: part(
    (userId, after) => sql`
    select id, content from (
      select md5(email)::uuid as id, jsonb_build_object('email', email, 'expires_at', expires_at) as content
        from former_addresses where user_id = ${userId}) f
     where id > ${after}`,
  ),
  sessions: part(
    (userId, after) => sql`
    select id, jsonb_build_object('id', id, 'user_agent', user_agent, 'address', address, 'country', country,
             'browser', browser, 'platform', platform, 'earlier_countries', earlier_countries,
             'seen_country', seen_country, 'seen_at', seen_at, 'created_at', created_at,
             'last_seen_at', last_seen_at, 'expires_at', least(idle_expires_at, expires_at), 'ended_at', ended_at,
             'end_reason', end_reason) as content
      from sessions where user_id = ${userId} and id > ${after}`,
  ),
  linked_identities: part(
    (userId, after) => sql`
    select id, jsonb_build_object('id', id, 'provider_id', provider_id, 'issuer', issuer, 'subject', subject, 'email', email,
             'created_at', created_at, 'last_used_at', last_used_at) as content
      from linked_identities where user_id = ${userId} and id > ${after}`,
  ),
  known_devices: part(
    (userId, after) => sql`
    select id, content from (
      select encode(substring(token_hash for 16), 'hex')::uuid as id,
             jsonb_build_object('session_id', session_id, 'created_at', created_at, 'last_used_at', last_used_at,
               'expires_at', expires_at) as content
        from known_devices where user_id = ${userId}) d
     where id > ${after}`,
  ),
  authenticator_apps: part(
    (userId, after) => sql`
    select user_id as id, jsonb_build_object('created_at', created_at, 'confirmed_at', confirmed_at) as content
      from totp_factors where user_id = ${userId} and user_id > ${after}`,
  ),
  recovery_codes: part(
    (userId, after) => sql`
    select user_id as id, jsonb_build_object('left', count(*), 'created_at', min(created_at)) as content
      from recovery_codes where user_id = ${userId} and user_id > ${after} group by user_id`,
  ),
  passkeys: part(
    (userId, after) => sql`
    select id, jsonb_build_object('id', id, 'name', name, 'synced', backed_up, 'created_at', created_at,
             'last_used_at', last_used_at) as content
      from passkeys where user_id = ${userId} and id > ${after}`,
  ),
  notices: part(
    (userId, after) => sql`
    select id, jsonb_build_object('kind', kind, 'created_at', created_at, 'details', details, 'sent_at', sent_at) as content
      from notices where user_id = ${userId} and id > ${after}`,
  ),
})

/**
 * What the database holds about a person and by that person. Never hashes, tokens or keys. Other people occur by the ids that the
 * person could see.
 *
 * Left out are tokens of links and of sign-ins (`one_time_tokens`, `refresh_tokens`, `identity_provider_sign_ins`), which are
 * hashes; mails and requests that wait to be sent (`outbound_tasks`), which are sealed and gone within a day; responses to
 * repeated requests (`idempotency_keys`), which are those of the rows here; counts of failed sign-ins, which others make; and
 * rights and figures that the program computes from the rows here.
 */
export const createExportStore = (sql: Sql) => {
  /** Each statement selects `id` and `content`, has a condition on the id, and is ordered by it. */
  const part: Part = (select) => (userId) => (deadline, after) =>
    deadline.run(sql<ExportedRow[]>`${select(userId, after)} order by id limit ${pageSize}`)

  return {
    /** By the name of the file in the archive. */
    parts: {
      account: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'email', email, 'email_verified_at', email_verified_at, 'display_name', display_name,
                 'role', role, 'plan', plan, 'limits', limits, 'status', status, 'created_at', created_at,
                 'updated_at', updated_at) as content
          from users where id = ${userId} and id > ${after}`,
      ),
      ...createSignInParts(sql, part),
      teams: part(
        (userId, after) => sql`
        select t.id, jsonb_build_object('id', t.id, 'name', t.name, 'role', m.role, 'joined_at', m.joined_at) as content
          from team_members m join teams t on t.id = m.team_id where m.user_id = ${userId} and t.id > ${after}`,
      ),
      invitations: part(
        (userId, after) => sql`
        select i.id, jsonb_build_object('id', i.id, 'team_id', i.team_id, 'role', i.role, 'status', i.status,
                 'created_at', i.created_at, 'expires_at', i.expires_at, 'decided_at', i.decided_at) as content
          from team_invitations i join users u on u.email = i.email where u.id = ${userId} and i.id > ${after}`,
      ),
      sent_invitations: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'team_id', team_id, 'role', role, 'status', status, 'created_at', created_at,
                 'expires_at', expires_at, 'decided_at', decided_at) as content
          from team_invitations where invited_by = ${userId} and id > ${after}`,
      ),
      projects: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'name', name, 'description', description, 'visibility', visibility,
                 'allow_derivatives', allow_derivatives, 'created_at', created_at, 'updated_at', updated_at) as content
          from projects where owner_id = ${userId} and id > ${after}`,
      ),
      granted_projects: part(
        (userId, after) => sql`
        select project_id as id, jsonb_build_object('project_id', project_id, 'grants', jsonb_agg(jsonb_build_object(
                 'team_id', team_id, 'access_level', access_level) order by team_id)) as content
          from project_grants where granted_by = ${userId} and project_id > ${after} group by project_id`,
      ),
      generations: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'project_id', project_id, 'title', title, 'intent', intent, 'model', model,
                 'prompt', prompt, 'negative_prompt', negative_prompt, 'parameters', parameters,
                 'reference_media_id', reference_media_id, 'outputs', outputs, 'price', price, 'status', status,
                 'failure', failure, 'created_at', created_at, 'updated_at', updated_at, 'started_at', started_at,
                 'finished_at', finished_at) as content
          from generations where owner_id = ${userId} and id > ${after}`,
      ),
      favorites: part(
        (userId, after) => sql`
        select generation_id as id, jsonb_build_object('generation_id', generation_id, 'created_at', created_at) as content
          from generation_favorites where user_id = ${userId} and generation_id > ${after}`,
      ),
      share_links: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'media_id', media_id, 'label', label, 'created_at', created_at,
                 'expires_at', expires_at) as content
          from share_links where created_by = ${userId} and id > ${after}`,
      ),
      credits: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'kind', kind, 'amount', amount, 'balance_after', balance_after,
                 'generation_id', generation_id, 'note', note, 'created_at', created_at) as content
          from credit_ledger where user_id = ${userId} and id > ${after}`,
      ),
      incidents: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'kind', kind, 'severity', severity, 'count', count, 'first_seen_at', first_seen_at,
                 'last_seen_at', last_seen_at, 'closed_at', closed_at, 'resolution', resolution,
                 'about_you', subject_type = 'user' and subject_id = ${userId}::text,
                 'evidence', case when subject_type = 'user' and subject_id = ${userId}::text then evidence end,
                 'assigned_to_you', assignee_id is not distinct from ${userId}::uuid,
                 'opened_by_you', opened_by is not distinct from ${userId}::uuid,
                 'closed_by_you', closed_by is not distinct from ${userId}::uuid) as content
          from incidents
         where (subject_type = 'user' and subject_id = ${userId}::text or ${userId}::uuid in (assignee_id, opened_by, closed_by))
           and id > ${after}`,
      ),
      feature_flags: part(
        (userId, after) => sql`
        select id, jsonb_build_object('name', name, 'on', definition -> 'users' ? ${userId}::text,
                 'off', definition -> 'except_users' ? ${userId}::text) as content
          from feature_flags
         where (definition -> 'users' ? ${userId}::text or definition -> 'except_users' ? ${userId}::text) and id > ${after}`,
      ),
      audit: part(
        (userId, after) => sql`
        select e.id, jsonb_build_object('id', e.id, 'at', e.at, 'action', e.action, 'by_you', e.actor_id is not distinct from ${userId}::uuid,
                 'target_type', e.target_type, 'target_id', e.target_id, 'request_id', e.request_id, 'before', e.before::jsonb,
                 'after', e.after::jsonb, 'count', e.count, 'details', d.details::jsonb) as content
          from (select o.id, o.at, o.action, o.actor_id, o.target_type, o.target_id, o.request_id, o.before, o.after, o.count
                  from audit_events o where o.actor_id = ${userId} and o.id > ${after}
                 union all
                select c.id, c.at, c.action, c.actor_id, c.target_type, c.target_id, c.request_id, c.before, c.after, c.count
                  from audit_events c where c.user_id = ${userId} and c.id > ${after}) e
          left join audit_details d on d.event_id = e.id and d.at = e.at and d.user_id = ${userId}`,
      ),
      service_keys: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'name', name, 'scopes', scopes, 'created_at', created_at,
                 'expires_at', expires_at, 'revoked_at', revoked_at, 'allowed_networks', allowed_networks) as content
          from service_keys where created_by = ${userId} and id > ${after}`,
      ),
      webhooks: part(
        (userId, after) => sql`
        select id, jsonb_build_object('id', id, 'team_id', team_id, 'url', url, 'events', events, 'description', description,
                 'created_at', created_at, 'updated_at', updated_at) as content
          from webhooks where responsible_id = ${userId} and id > ${after}`,
      ),
    },

    /** Uploads, and outputs of completed generations. */
    media:
      (userId: string): ReadPage<ExportedMedia> =>
      (deadline, after) =>
        deadline.run(sql<ExportedMedia[]>`
          select m.id, m.sha256, o.content_type, m.created_at,
                 jsonb_build_object('id', m.id, 'generation_id', m.generation_id, 'position', m.position,
                   'content_type', o.content_type, 'bytes', o.bytes, 'width', o.width, 'height', o.height,
                   'duration_ms', o.duration_ms, 'created_at', m.created_at) as content
            from media m join media_objects o on o.sha256 = m.sha256 left join generations g on g.id = m.generation_id
           where m.owner_id = ${userId} and m.id > ${after} and (g.id is null or g.status = 'completed')
           order by m.id limit ${pageSize}`),
  }
}

export type ExportStore = ReturnType<typeof createExportStore>
