import { levelActions, ownerActions, type ResourceRef, roleActions } from '../../src/access/policy/matrix.ts'
import type { Facts } from '../../src/access/policy/rules.ts'
import type { Queryable, Sql, TransactionSql } from '../../src/platform/postgres.ts'
import type { World } from './reference-model.ts'

const sha256 = 'ab'.repeat(32)

/** The facts of a question, computed from a world without Postgres; grants come from the matrix, as triggers compute them. */
export const factsIn = (world: World, userId: string, { type, id }: ResourceRef): Facts => {
  const user = world.users.find((row) => row.id === userId)
  const media = type === 'media' ? world.media?.find((row) => row.id === id) : undefined
  const generationId = type === 'generation' ? id : media?.generation_id
  const generation = world.generations.find((row) => row.id === generationId)
  const projectId = type === 'project' ? id : generation?.project_id
  const project = world.projects.find((row) => row.id === projectId)
  let grant = project?.owner_id === userId ? ownerActions : 0
  for (const { project_id, team_id, access_level } of world.grants) {
    if (project_id !== project?.id || project.visibility === 'private') continue
    const requires = world.teams.find((row) => row.id === team_id)?.requires_second_factor === true
    if (requires && user?.second_factor !== true) continue
    const role = world.members.find((row) => row.team_id === team_id && row.user_id === userId)?.role
    if (role !== undefined) grant |= roleActions[role] & levelActions[access_level]
  }
  return {
    userId,
    account: user && { status: user.status, role: user.role, plan: 'free', limits: null },
    project: project && {
      ownerId: project.owner_id,
      visibility: project.visibility,
      allowDerivatives: project.allow_derivatives,
    },
    generation: generation && {
      ownerId: generation.owner_id,
      projectId: generation.project_id,
      status: generation.completed === false ? 'queued' : 'completed',
    },
    media: media && {
      ownerId: media.owner_id,
      generationId: media.generation_id,
      sha256,
      contentType: 'image/webp',
    },
    grant: project && grant,
  }
}

const inChunks = async <T>(rows: readonly T[], insert: (chunk: T[]) => PromiseLike<unknown>) => {
  for (let at = 0; at < rows.length; at += 5_000) await insert(rows.slice(at, at + 5_000))
}

/** Writes a world into an empty database. All triggers fire. */
export const store = async (sql: Queryable, world: World): Promise<void> => {
  const people = world.users.map(({ id, status, role, second_factor = false }) => ({
    id,
    status,
    role,
    second_factor,
    display_name: 'u',
    email: status === 'deleted' ? null : `${id}@example.com`,
    password_hash: status === 'deleted' ? null : 'x',
  }))
  const grants = world.grants.map((grant) => ({ ...grant, granted_by: world.users[0]?.id as string }))
  await inChunks(people, (rows) => sql`insert into users ${sql(rows)}`)
  await inChunks(
    world.teams,
    (rows) =>
      sql`insert into teams ${sql(
        rows.map(({ id, requires_second_factor = false }) => ({ id, name: 't', requires_second_factor })),
      )}`,
  )
  await inChunks(world.members, (rows) => sql`insert into team_members ${sql(rows)}`)
  await inChunks(world.projects, (rows) => sql`insert into projects ${sql(rows.map((row) => ({ ...row, name: 'p' })))}`)
  await inChunks(grants, (rows) => sql`insert into project_grants ${sql(rows)}`)
  await inChunks(
    world.generations,
    (rows) =>
      sql`insert into generations ${sql(
        rows.map(({ completed = true, ...row }) => ({
          ...row,
          model: 'm',
          prompt: 'p',
          status: completed ? 'completed' : 'queued',
        })),
      )}`,
  )
  const media = world.media ?? []
  if (media.length === 0) return
  await sql`
    insert into media_objects (sha256, content_type, bytes, width, height) values (${sha256}, 'image/webp', 1, 1, 1)
    on conflict do nothing`
  await sql`insert into media ${sql(
    media.map((row, at) => ({ ...row, position: row.generation_id === null ? null : at, sha256 })),
  )}`
}

/** Runs statements with every trigger off, foreign keys included: no event is published, and thousands of rows take a moment. */
export const withoutTriggers = (sql: Sql, work: (tx: TransactionSql) => Promise<unknown>): Promise<unknown> =>
  sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await work(tx)
    await tx`set local session_replication_role = origin`
  })

/** Inserts thousands of projects and grants without triggers, then computes the effective rows of all in one statement. */
export const insertInBulk = async (sql: Sql, insert: (tx: TransactionSql) => Promise<unknown>): Promise<void> => {
  await withoutTriggers(sql, insert)
  await sql`select refresh_project_access(array(select id from projects))`
  await sql`select mend_public_generations(array(select id from public_generations_expected))`
}

/** Removes the projects and grants that `insertInBulk` inserted; deleting them row by row costs seconds. */
export const removeInBulk = (sql: Sql): Promise<unknown> =>
  withoutTriggers(sql, async (tx) => {
    await tx`delete from project_access`
    await tx`delete from public_generations`
    await tx`delete from project_grants`
    await tx`delete from projects`
  })

/** Empties the tables that `store` fills. */
export const clear = async (sql: Sql): Promise<void> => {
  await sql`delete from media`
  await sql`delete from generations`
  await sql`delete from projects`
  await sql`delete from teams`
  await sql`delete from users`
}
