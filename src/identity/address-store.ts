import { canonicalEmail } from '../kit/email.ts'
import type { Log } from '../platform/log.ts'
import type { Sql } from '../platform/postgres.ts'

/** Most rows that one start converts, so that it stays short; the next start goes on. */
const maxRows = 10_000

type Stored = { readonly id: string; readonly email: string }

/**
 * Stores the addresses of accounts and invitations in the canonical form, where a version before it stored an
 * internationalized domain in Unicode. Idempotent. A partial index finds such rows; without any, it costs one statement.
 * An account whose canonical address belongs to another account keeps its spelling, and signs in with it.
 */
export const canonicalizeAddresses = async (sql: Sql, log: Log): Promise<void> => {
  const rows = await sql<(Stored & { kind: 'users' | 'team_invitations' })[]>`
    (select 'users' as kind, id, email from users
      where octet_length(split_part(email, '@', 2)) <> char_length(split_part(email, '@', 2)) limit ${maxRows})
    union all
    (select 'team_invitations', id, email from team_invitations
      where status = 'pending'
        and octet_length(split_part(email, '@', 2)) <> char_length(split_part(email, '@', 2)) limit ${maxRows})`
  for (const { kind, id, email } of rows) {
    const canonical = canonicalEmail(email)
    if (canonical === undefined || canonical === email) continue
    const { count } =
      kind === 'users'
        ? await sql`
            update users set email = ${canonical}
             where id = ${id} and email = ${email} and not exists (select from users where email = ${canonical})`
        : await sql`
            update team_invitations i set email = ${canonical}
             where id = ${id} and email = ${email}
               and not exists (select from team_invitations o
                                where o.team_id = i.team_id and o.email = ${canonical} and o.status = 'pending')`
    if (count === 0 && kind === 'users')
      log.warn({ event: 'user.address_taken', user_id: id }, 'two accounts have spellings of one e-mail address')
  }
}
