import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { scryptSync } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { hashSync as bcrypt } from '@node-rs/bcrypt'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { type Api, api, openDatabase, startApp, type TestApp } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/users-import.ts', import.meta.url))

let database: Awaited<ReturnType<typeof openDatabase>>
let app: TestApp
let client: Api
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-import-'))
  database = await openDatabase()
  app = await startApp({ connection: database.connection })
  client = api(app.baseUrl)
})
afterAll(async () => {
  await app.close()
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

const file = async (name: string, content: unknown): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

const runImport = (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
  new Promise((resolve) => {
    const env = { ...process.env, ...connectionEnvironment(database.connection), SECRET: 's'.repeat(32) }
    execFile(process.execPath, [script, ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    )
  })

const login = (email: string, password: string) => client.post('/api/v1/auth/login', { email, password })
const countUsers = async () => Number((await database.sql`select count(*)::int as n from users`)[0]?.['n'])

describe('the import of users', () => {
  test('of Supabase: good users sign in, refused ones are named with the reason, and nothing of them is written', async () => {
    const rows = [
      ...Array.from({ length: 40 }, (_, index) => ({
        id: `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
        email: `Supa${index}@Example.com`,
        encrypted_password: bcrypt(`supa password ${index}`, index === 0 ? 10 : 4),
        email_confirmed_at: index % 2 === 0 ? '2024-05-01 10:00:00+00' : null,
        created_at: '2024-04-01 10:00:00+00',
        raw_user_meta_data: { full_name: `Supa\u202e\r\nBcc: x ${index}` },
      })),
      { id: 'no-password', email: 'oauth@example.com', encrypted_password: '' },
      {
        id: 'banned',
        email: 'banned@example.com',
        encrypted_password: bcrypt('banned password', 4),
        banned_until: '2100-01-01 00:00:00+00',
      },
      { id: 'cost', email: 'cost@example.com', encrypted_password: `$2a$31$${'a'.repeat(53)}` },
      { id: 'broken', email: 'broken@example.com', encrypted_password: '$2a$10$tooshort' },
      { id: 'address', email: 'not an address', encrypted_password: null },
      { id: 'phone', email: null, phone: '4912345', encrypted_password: null },
      { id: 'twice', email: 'supa1@EXAMPLE.com', encrypted_password: bcrypt('another password', 4) },
    ]
    const report = join(folder, 'report.jsonl')
    const path = await file('users.json', rows)
    const before = await countUsers()

    const checked = await runImport('--from', 'supabase', '--check', path)
    expect(checked.stdout).toContain('Would import 42 of 47 users')
    expect(await countUsers()).toBe(before)

    const { code, stdout, stderr } = await runImport('--from', 'supabase', '--report', report, path)
    expect([code, stderr.includes('47 of 47 users')]).toEqual([2, true])
    expect(stdout).toContain('Imported 42 of 47 users')
    expect(stdout).toContain('1 of them have no password there')
    for (const reason of [
      'user 43 (cost): the password hash must have a cost from 4 to 14, not 31',
      'user 44 (broken): the password hash must be a complete hash of the format bcrypt',
      'user 45 (address): the e-mail address must be an e-mail address of at most 254 characters',
      'user 46 (phone): has no e-mail address',
      'user 47 (twice): has the e-mail address of an earlier user of the file',
    ])
      expect(stdout).toContain(reason)
    expect(stdout + stderr).not.toContain('example.com')
    expect(await countUsers()).toBe(before + 42)

    const lines = (await readFile(report, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines).toHaveLength(47)
    expect(lines[0]).toMatchObject({ source_id: rows[0]?.id, outcome: 'imported', hasPassword: true })
    expect((await stat(report)).mode & 0o777).toBe(0o600)

    for (const index of [0, 1, 2, 39]) {
      const answer = await login(`supa${index}@example.com`, `supa password ${index}`)
      expect([index, answer.status, answer.body.user.email_verified]).toEqual([index, 200, index % 2 === 0])
      expect(answer.body.user).toMatchObject({
        id: lines[index].id,
        role: 'user',
        plan: 'free',
        created_at: '2024-04-01T10:00:00.000Z',
      })
      expect(answer.body.user.display_name).not.toMatch(/[\u202e\r\n]/)
    }
    expect((await login('supa3@example.com', 'supa password 4')).status).toBe(401)
    expect((await login('supa1@example.com', 'another password')).status).toBe(401)
    expect((await login('banned@example.com', 'banned password')).body.code).toBe('identity.account_suspended')
    for (const guess of ['', ' ', 'null', '!'])
      expect((await login('oauth@example.com', guess || 'x')).status).toBe(401)
  })

  test('replaces a hash at the first sign-in, and the password still works', async () => {
    const hashOf = async (email: string) =>
      (await database.sql`select password_hash from users where email = ${email}`)[0]?.['password_hash']
    expect(await hashOf('supa5@example.com')).toStartWith('$2b$04$')
    expect((await login('supa5@example.com', 'supa password 5')).status).toBe(200)
    expect(await hashOf('supa5@example.com')).toStartWith('$argon2id$')
    expect((await login('supa5@example.com', 'supa password 5')).status).toBe(200)
    expect((await login('supa5@example.com', 'supa password 6')).status).toBe(401)
  })

  test('that fails in a later batch imports nobody, and everybody once it is run again', async () => {
    const path = await file(
      'users.json',
      Array.from({ length: 1_200 }, (_, index) => ({ id: `${index}`, email: `batch${index}@example.com` })),
    )
    const before = await countUsers()
    await database.sql`
      create function refuse_a_user() returns trigger language plpgsql as $$
      begin
        if new.email = 'batch1150@example.com' then raise exception 'refused by the test'; end if;
        return new;
      end $$`
    await database.sql`create trigger refused before insert on users for each row execute function refuse_a_user()`
    const failed = await runImport('--from', 'supabase', path)
    await database.sql`drop trigger refused on users`
    await database.sql`drop function refuse_a_user()`
    expect([failed.code === 0, failed.stdout.includes('Imported')]).toEqual([false, false])
    expect(await countUsers()).toBe(before)
    expect((await runImport('--from', 'supabase', path)).stdout).toContain('Imported 1,200 of 1,200 users')
    expect(await countUsers()).toBe(before + 1_200)
  })

  test('again adds only those that are missing, and changes no existing account', async () => {
    const { body } = await login('supa6@example.com', 'supa password 6')
    await client.patch('/api/v1/auth/me', { display_name: 'Changed here' }, { token: body.access_token })
    const path = await file('users.json', [
      { id: 'again', email: 'SUPA6@example.com', encrypted_password: bcrypt('taken over 123', 4) },
      { id: 'new', email: 'new@example.com', encrypted_password: bcrypt('new password 123', 4) },
    ])
    const { code, stdout } = await runImport('--from', 'supabase', path)
    expect([code, stdout.includes('user 1 (again): has the e-mail address of an existing account')]).toEqual([2, true])
    expect((await login('supa6@example.com', 'supa password 6')).body.user.display_name).toBe('Changed here')
    expect((await login('new@example.com', 'new password 123')).status).toBe(200)
  })

  test('of Better Auth and of PocketBase: users sign in', async () => {
    const salt = 'ab'.repeat(16)
    const key = scryptSync('better password', salt, 64, { N: 16_384, r: 16, p: 1, maxmem: 67_108_864 }).toString('hex')
    const user = await file('user.json', [
      { id: 'b1', email: 'better@example.com', name: 'Better', emailVerified: true },
    ])
    const account = await file('account.json', [{ userId: 'b1', providerId: 'credential', password: `${salt}:${key}` }])
    expect((await runImport('--from', 'better-auth', user, account)).code).toBe(0)
    expect((await login('better@example.com', 'better password')).status).toBe(200)
    expect((await login('better@example.com', 'better passwort')).status).toBe(401)

    const hash = bcrypt('pocket password', 10)
    const csv = await file('users.csv', `id,email,password,verified,name\np1,pocket@example.com,${hash},1,Pocket\n`)
    expect((await runImport('--from', 'pocketbase', csv)).code).toBe(0)
    expect((await login('pocket@example.com', 'pocket password')).status).toBe(200)
  })

  test('without a file, with an unknown source or a file that cannot be read ends with 1 and says why', async () => {
    for (const [args, said] of [
      [[], '--from must be one of supabase, better-auth, pocketbase'],
      [['--from', 'auth0', 'x.json'], '--from must be one of'],
      [['--from', 'supabase'], 'A file must be given'],
      [['--from', 'supabase', join(folder, 'none.json')], 'cannot be read (ENOENT)'],
      [['--from', 'better-auth', await file('users.json', [])], 'must hold the table account or accounts'],
    ] as const) {
      const { code, stderr } = await runImport(...args)
      expect([args, code]).toEqual([args, 1])
      expect(stderr).toContain(said)
    }
  })
})
