/**
 * A reconstruction of the backend that this one replaces, from the known causes of its slowness and nothing else: a database
 * client for each request, password hashes computed on the event loop, the service key validated by the database on each call,
 * one query after the other for a decision, timeouts around timeouts, and retries after them. Its tables are those of Velro, so
 * that both answer about the same world. `DATABASE_URL` and the variables of libpq name the database.
 */
import { createHash, createSecretKey, randomUUID, timingSafeEqual } from 'node:crypto'
import { hashSync, verifySync } from '@node-rs/argon2'
import { Elysia } from 'elysia'
import { jwtVerify, SignJWT } from 'jose'
import { argon2Options } from '../../../src/identity/passwords.ts'
import { type Connection, connect, type Sql } from '../../../src/platform/postgres.ts'
import { connectionOf } from '../databases.ts'
import { checkPath, loginPath, mePath } from '../people.ts'

const environment = Object.fromEntries(Object.entries(process.env).map(([name, value]) => [name, value ?? '']))
const connection: Connection = connectionOf(environment)
const secret = process.env['SECRET'] ?? ''
const statementTimeoutMs = 5_000
const operationTimeoutMs = 10_000
const requestTimeoutMs = 15_000
const attempts = 3

const withTimeout = async <T>(ms: number, what: string, work: () => Promise<T>): Promise<T> => {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([work(), late])
  } finally {
    clearTimeout(timer)
  }
}

const retry = async <T>(work: () => Promise<T>): Promise<T> => {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (attempt === attempts) throw error
      await Bun.sleep(100 * 2 ** attempt)
    }
  }
}

/** The client of one request: opened for it and closed after it. */
const withClient = async <T>(work: (sql: Sql) => Promise<T>): Promise<T> => {
  const sql = connect(connection, { max: 1, prepare: false })
  try {
    return await withTimeout(requestTimeoutMs, 'The request', () => work(sql))
  } finally {
    await sql.end({ timeout: 1 })
  }
}

const query = <T>(work: () => Promise<T>): Promise<T> =>
  retry(() =>
    withTimeout(operationTimeoutMs, 'The operation', () => withTimeout(statementTimeoutMs, 'The statement', work)),
  )

/** The key is made anew from its text on each call, and nothing is remembered. */
const validate = async (sql: Sql, token: string): Promise<string | undefined> => {
  if (token.startsWith('vsk_')) {
    const bytes = Buffer.from(token.slice(4), 'base64url')
    const id = bytes.subarray(0, 16).toString('hex')
    const [row] = await query(
      async () => sql<{ secret_hash: Uint8Array }[]>`
        select secret_hash from service_keys where id = ${id}::uuid and revoked_at is null`,
    )
    const presented = createHash('sha256').update(bytes.subarray(16)).digest()
    return row !== undefined && timingSafeEqual(presented, row.secret_hash) ? 'service' : undefined
  }
  const { payload } = await jwtVerify(token, createSecretKey(Buffer.from(secret)))
  const [session] = await query(async () => sql<{ id: string }[]>`select id from users where id = ${payload.sub ?? ''}`)
  return session?.id
}

type Question = { user_id?: string; action: string; resource: { type: string; id: string } }

const rolesThatMay: Readonly<Record<string, readonly string[]>> = {
  read: ['owner', 'admin', 'editor', 'contributor', 'viewer'],
  download: ['owner', 'admin', 'editor', 'contributor', 'viewer'],
  create: ['owner', 'admin', 'editor', 'contributor'],
  write: ['owner', 'admin', 'editor'],
}

const decide = async (sql: Sql, userId: string, { action, resource }: Question): Promise<boolean> => {
  const [user] = await query(async () => sql<{ status: string }[]>`select status from users where id = ${userId}`)
  if (user?.status !== 'active') return false
  let projectId: string | null = resource.id
  if (resource.type === 'generation') {
    const [generation] = await query(
      async () => sql<{ owner_id: string; project_id: string | null }[]>`
        select owner_id, project_id from generations where id = ${resource.id}`,
    )
    if (generation === undefined) return false
    if (generation.owner_id === userId) return true
    projectId = generation.project_id
  }
  if (projectId === null) return false
  const [project] = await query(
    async () => sql<{ owner_id: string; visibility: string }[]>`
      select owner_id, visibility from projects where id = ${projectId}`,
  )
  if (project === undefined) return false
  if (project.owner_id === userId) return true
  if (project.visibility === 'public' && ['read', 'download'].includes(action)) return true
  if (project.visibility === 'private') return false
  const teams = await query(
    async () =>
      sql<{ team_id: string; role: string }[]>`select team_id, role from team_members where user_id = ${userId}`,
  )
  for (const { team_id, role } of teams) {
    const [grant] = await query(
      async () => sql<{ access_level: string }[]>`
        select access_level from project_grants where project_id = ${projectId} and team_id = ${team_id}`,
    )
    if (grant !== undefined && (rolesThatMay[action] ?? ['owner']).includes(role)) return true
  }
  return false
}

const bearer = (request: Request) => (request.headers.get('authorization') ?? '').replace('Bearer ', '')

new Elysia()
  .get('/ready', () => 'ready')
  .get(mePath, ({ request, status }) =>
    withClient(async (sql) => {
      const id = await validate(sql, bearer(request))
      if (id === undefined) return status(401, { error: 'unauthorized' })
      const [user] = await query(
        async () => sql`select id, email, display_name, role, plan from users where id = ${id}`,
      )
      return user
    }),
  )
  .post(checkPath, ({ request, body, status }) =>
    withClient(async (sql) => {
      const id = await validate(sql, bearer(request))
      if (id === undefined) return status(401, { error: 'unauthorized' })
      const question = body as Question
      const allowed = await decide(sql, question.user_id ?? id, question)
      return { allowed, reason: allowed ? 'granted' : 'denied' }
    }),
  )
  .post(loginPath, ({ body, status }) =>
    withClient(async (sql) => {
      const { email, password } = body as { email: string; password: string }
      const [user] = await query(
        async () => sql<{ id: string; password_hash: string }[]>`
          select id, password_hash from users where email = ${email}`,
      )
      if (user === undefined || !verifySync(user.password_hash, password)) return status(401, { error: 'unauthorized' })
      // A hash of the refresh token, by the algorithm of passwords, on the event loop too.
      const refresh_token = randomUUID()
      const refresh_hash = hashSync(refresh_token, argon2Options)
      await query(async () => sql`update users set updated_at = now() where id = ${user.id}`)
      const access_token = await new SignJWT({ refresh: refresh_hash.length })
        .setProtectedHeader({ alg: 'HS256' })
        .setSubject(user.id)
        .setExpirationTime('1h')
        .sign(createSecretKey(Buffer.from(secret)))
      return { access_token, refresh_token }
    }),
  )
  .listen({ hostname: process.env['HOST'] ?? '127.0.0.1', port: Number(process.env['PORT']) })

process.on('SIGTERM', () => process.exit(0))
