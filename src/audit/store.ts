import type { TransactionSql } from '../platform/postgres.ts'
import type { PreparedEvent } from './event.ts'

/**
 * Inserts an event and its details by one statement. Locks nothing that another insert waits for.
 *
 * Both rows have one `at`, which decides their partitions.
 */
export const insertEvent = async (tx: TransactionSql, { event, details }: PreparedEvent): Promise<void> => {
  const values = tx`
    insert into audit_events (id, action, actor_kind, actor_id, service_key_id, session_id, target_type, target_id, user_id,
                              team_id, request_id, before, after, count, details_hash, mac)
    values (${event.id}, ${event.action}, ${event.actor_kind}, ${event.actor_id}, ${event.service_key_id},
            ${event.session_id}, ${event.target_type}, ${event.target_id}, ${event.user_id}, ${event.team_id},
            ${event.request_id}, ${event.before}::text::json, ${event.after}::text::json, ${event.count},
            ${event.details_hash}, ${event.mac})`
  if (details === undefined) await values
  else {
    await tx`
      with event as (${values} returning id, at)
      insert into audit_details (event_id, at, user_id, salt, details)
      select id, at, ${details.user_id}::uuid, ${details.salt}::bytea, ${details.details}::text from event`
  }
}
