import type { Queryable, Sql } from '../../src/platform/postgres.ts'
import { idOf } from '../access/random.ts'

export type Size = {
  readonly users: number
  readonly teams: number
  readonly projects: number
  readonly generations: number
}

type Kind = Parameters<typeof idOf>[0]

/** An id by a number that SQL computes, as `idOf` spells it. */
const idIn = (sql: Queryable, kind: Kind, number: string) =>
  sql.unsafe(`('${idOf(kind, 0).slice(0, 24)}' || lpad(to_hex(${number}), 12, '0'))::uuid`)

/**
 * Fills a database past its triggers and computes the rows of access once, at the end. Every team has 20 members and is
 * let into 20 projects; a project has ten generations; one project in fifty is public, half of the others are private.
 */
export const fill = async (sql: Sql, { users, teams, projects, generations }: Size) => {
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await tx`
      insert into users (id, email, display_name, password_hash)
      select ${idIn(tx, 'user', 'n')}, n || '@example.com', 'u', 'x' from generate_series(0, ${users - 1}) n`
    await tx`insert into teams (id, name) select ${idIn(tx, 'team', 'n')}, 't' from generate_series(0, ${teams - 1}) n`
    await tx`
      insert into team_members (team_id, user_id, role)
      select ${idIn(tx, 'team', 'n')}, ${idIn(tx, 'user', `(n * 7919 + m * 104729) % ${users}`)},
             (array['owner', 'admin', 'editor', 'contributor', 'viewer'])[case m when 0 then 1 else 2 + m % 4 end]
        from generate_series(0, ${teams - 1}) n, generate_series(0, 19) m on conflict do nothing`
    await tx`
      insert into projects (id, owner_id, name, visibility)
      select ${idIn(tx, 'project', 'n')}, ${idIn(tx, 'user', `n * 31 % ${users}`)}, 'p',
             case when n % 50 = 0 then 'public' when n % 2 = 0 then 'private' else 'team-only' end
        from generate_series(0, ${projects - 1}) n`
    await tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      select ${idIn(tx, 'project', `(n * 6151 + m * 12289) % ${projects}`)}, ${idIn(tx, 'team', 'n')},
             (array['read', 'write', 'admin'])[1 + m % 3], ${idIn(tx, 'user', '0')}
        from generate_series(0, ${teams - 1}) n, generate_series(0, 19) m on conflict do nothing`
    await tx`
      insert into generations (id, owner_id, project_id, model, prompt, status)
      select ${idIn(tx, 'generation', 'n')}, ${idIn(tx, 'user', `n * 17 % ${users}`)},
             case when n % 10 = 9 then null else ${idIn(tx, 'project', `n * 13 % ${projects}`)} end, 'm', 'p', 'completed'
        from generate_series(0, ${generations - 1}) n`
    await tx`insert into project_access select * from project_access_expected`
    await tx`insert into public_generations select * from public_generations_expected`
  })
  await sql`vacuum analyze`
}
