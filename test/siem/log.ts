import type { Sql } from '../../src/platform/postgres.ts'

/** Adds events to the audit log and links them, as its chainer does but without hashes that fit. */
export const createTestLog = (sql: Sql) => {
  const sequences = new Map<string, number>()
  return {
    /** Adds this many events of a month (such as 2026-11), in one statement. Returns their ids in the order of the chain. */
    add: async (month: string, count: number, after: object = { note: 'x' }): Promise<string[]> => {
      const from = sequences.get(month) ?? 0
      sequences.set(month, from + count)
      const rows = await sql<{ id: string }[]>`
        with made as (
          insert into audit_events (id, at, action, actor_kind, target_type, target_id, request_id, after, mac)
          select gen_random_uuid(), ${`${month}-15T00:00:00Z`}::timestamptz + at * interval '1 second', 'project.changed', 'system',
                 'project', at::text, 'r', ${JSON.stringify(after)}::text::json, '\\x00'
            from generate_series(${from + 1}::int, ${from + count}::int) at
          returning id, at, target_id::bigint as sequence
        ), linked as (
          insert into audit_links (at, sequence, event_id, event_at, row_hash, hash)
          select ${`${month}-01T00:00:00Z`}::timestamptz, sequence, id, at, '\\x00', '\\xab' from made
        )
        select id from made order by sequence`
      await sql`
        insert into audit_heads (month, token) values (${`${month}-01T00:00:00Z`}, ${`head ${from + count}`})
            on conflict (month) do update set token = excluded.token`
      return rows.map(({ id }) => id)
    },
  }
}
