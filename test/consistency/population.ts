import { maxGrants } from '../../src/access/policy/facts/grants.ts'
import { makeServiceKey } from '../../src/access/service-key.ts'
import { createSigningKeys } from '../../src/identity/signing-keys.ts'
import { createIdentityStore } from '../../src/identity/store.ts'
import { createTokenDigest } from '../../src/identity/token-screening.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { signAccessToken } from '../../src/platform/tokens.ts'
import { type TestConnection, testSecret } from '../harness.ts'
import { createFixture, type Fixture, type Human, type SessionCredential } from './fixture.ts'
import { tokenTtlS } from './instances.ts'

/** Inserts users, sessions and fixtures directly into the tables, because each sign-in would cost a password hash. */
export type Population = {
  createHuman(): Promise<Human>
  /** Inserts users as viewers of a team and resolves to their ids. */
  addViewers(teamId: string, count: number): Promise<string[]>
  createSession(of: Human): Promise<SessionCredential>
  /** Lets the sessions of a user make sensitive changes again, without a password. */
  authenticateAgain(userId: string): Promise<void>
  /** The id of the block of a user or a service key. */
  findBlock(target: string): Promise<string>
  /** The session of an operator. */
  readonly operator: SessionCredential
  insertFixture(number: number): Promise<Fixture>
  close(): Promise<void>
}

const dayMs = 86_400_000

export const openPopulation = async (connection: TestConnection): Promise<Population> => {
  const sql: Sql = connectOnce(connection)
  const policy = { issuer: 'velro', audience: 'velro', ttlMs: tokenTtlS * 1_000 }
  const secrets = createSecrets(testSecret)
  const signing = createSigningKeys({
    store: createIdentityStore(sql),
    secrets,
    clock: systemClock,
    maxTokenTtlMs: policy.ttlMs,
  })
  await signing.refresh()

  const createHuman = async (): Promise<Human> => {
    const id = newId()
    const email = `${id}@example.com`
    await sql`insert into users (id, email, display_name, password_hash) values (${id}, ${email}, 'h', 'x')`
    await sql`insert into credit_ledger (id, user_id, kind, amount) values (${newId()}, ${id}, 'welcome', 1000000)`
    return { id, email }
  }

  const addViewers = async (teamId: string, count: number): Promise<string[]> => {
    const ids: string[] = []
    while (ids.length < count) ids.push((await createHuman()).id)
    await sql`insert into team_members ${sql(ids.map((user_id) => ({ team_id: teamId, user_id, role: 'viewer' })))}`
    return ids
  }

  const createSession = async ({ id: userId }: Human): Promise<SessionCredential> => {
    const id = newId()
    const nowMs = Date.now()
    const now = new Date(nowMs)
    const later = new Date(nowMs + dayMs)
    await sql`
      insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at, authenticated_at)
      values (${id}, ${userId}, '', '', ${now}, ${now}, ${later}, ${later}, ${later})`
    const token = await signAccessToken(
      signing.signer(),
      policy,
      {
        userId,
        sessionId: id,
        tokenId: id,
        issuedAtS: Math.floor(nowMs / 1_000),
      },
      createTokenDigest(secrets),
    )
    return { kind: 'session', id, token, userId }
  }

  const authenticateAgain = async (userId: string): Promise<void> => {
    await sql`update sessions set authenticated_at = ${new Date(Date.now() + dayMs)} where user_id = ${userId}`
  }

  const findBlock = async (target: string): Promise<string> => {
    const [row] = await sql<{ id: string }[]>`select id from blocks where ${target} in (user_id, key_id)`
    return row?.id ?? newId()
  }

  const root = await createHuman()
  await sql`update users set role = 'admin' where id = ${root.id}`
  const operator = await createSession(root)

  const serviceKey = async () => {
    const id = newId()
    const { key, secretHash } = makeServiceKey(id)
    await sql`
      insert into service_keys (id, name, secret_hash, scopes, created_by, created_at)
      values (${id}, 'k', ${secretHash}, '{authorization:check}', ${root.id}, now())`
    return { kind: 'key', id, token: key } as const
  }

  const largeTeam = newId()
  await sql`insert into teams (id, name) values (${largeTeam}, 't')`
  await sql`
    insert into projects (id, owner_id, name, visibility)
    select gen_random_uuid(), ${root.id}, 'p', 'team-only' from generate_series(0, ${maxGrants}::int)`
  await sql`
    insert into project_grants (project_id, team_id, access_level, granted_by)
    select id, ${largeTeam}, 'read', ${root.id} from projects where owner_id = ${root.id}`

  /** Every second project is public. Every third member has more grants than one fact holds. */
  const insertFixture = async (number: number): Promise<Fixture> => {
    const [owner, member, heir, stranger] = [
      await createHuman(),
      await createHuman(),
      await createHuman(),
      await createHuman(),
    ]
    const [teamId, projectId, generationId] = [newId(), newId(), newId()]
    const visibility = number % 2 === 0 ? 'team-only' : 'public'
    const roles = [
      { team_id: teamId, user_id: owner.id, role: 'owner' },
      { team_id: teamId, user_id: member.id, role: 'editor' },
      { team_id: teamId, user_id: heir.id, role: 'editor' },
    ] as const
    await sql.begin(async (tx) => {
      // The owner may require a second factor of the others.
      await tx`
        insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
        values (${owner.id}, ${owner.id}, ${owner.id}::text::bytea, 'x'::bytea, 0, '{}', false, false, 'k', now())`
      await tx`insert into teams (id, name) values (${teamId}, 't')`
      await tx`insert into team_members ${tx(roles)}`
      if (number % 3 === 0) {
        await tx`insert into team_members (team_id, user_id, role) values (${largeTeam}, ${member.id}, 'viewer')`
      }
      await tx`
        insert into projects (id, owner_id, name, visibility) values (${projectId}, ${owner.id}, 'p', ${visibility})`
      await tx`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        values (${projectId}, ${teamId}, 'write', ${owner.id})`
      await tx`
        insert into generations (id, owner_id, project_id, model, prompt)
        values (${generationId}, ${owner.id}, ${projectId}, 'm', 'p')`
    })
    const [ownerSession, heirSession] = [await createSession(owner), await createSession(heir)]
    const others = [
      await createSession(member),
      await createSession(member),
      await createSession(stranger),
      await serviceKey(),
    ]
    return createFixture(
      { number, owner, heir, stranger, ownerSession, heirSession },
      {
        world: {
          users: [owner, member, heir, stranger].map((human) => ({
            id: human.id,
            status: 'active',
            role: 'user',
            second_factor: human === owner,
          })),
          teams: [{ id: teamId }],
          members: [...roles],
          projects: [{ id: projectId, owner_id: owner.id, visibility, allow_derivatives: true }],
          grants: [{ project_id: projectId, team_id: teamId, access_level: 'write' }],
          generations: [{ id: generationId, owner_id: owner.id, project_id: projectId }],
        },
        credentials: [ownerSession, heirSession, ...others],
        member,
        teamId,
        projectId,
        generationId,
      },
    )
  }

  const close = () => sql.end()
  return { createHuman, addViewers, createSession, authenticateAgain, findBlock, operator, insertFixture, close }
}
