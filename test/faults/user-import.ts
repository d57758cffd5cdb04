/**
 * Imports 10,000 users of Supabase with bcrypt hashes, 300 of cost 10 and the rest of cost 4, among 50 rows that must be refused.
 * Then 500 of them sign in, all of cost 10 among them. Reports the times, and ends with 1 where anything is not as it must be.
 *
 * `bun test/faults/user-import.ts`
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { hashSync } from '@node-rs/bcrypt'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { api, openDatabase, startApp } from '../harness.ts'

const users = 10_000
const costly = 300
const sampled = 500
const withinMs = 60_000

const script = fileURLToPath(new URL('../../src/boot/users-import.ts', import.meta.url))
const folder = await mkdtemp(join(tmpdir(), 'velro-import-'))
const database = await openDatabase()
const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`
const emailOf = (index: number) => `user${index}@import.example`
const passwordOf = (index: number) => `lantern ${index} harbour`

const hashingMs = performance.now()
const rows = Array.from({ length: users }, (_, index) => ({
  id: crypto.randomUUID(),
  email: emailOf(index),
  encrypted_password: hashSync(passwordOf(index), index < costly ? 10 : 4),
  email_confirmed_at: '2024-05-01 10:00:00+00',
}))
const refused = Array.from({ length: 50 }, (_, index) => ({
  id: `bad${index}`,
  email: index % 2 === 0 ? `bad${index}@import.example` : 'no address',
  encrypted_password: index % 4 === 0 ? `$2a$31$${'a'.repeat(53)}` : index % 4 === 2 ? '$2a$10$cut' : null,
}))
console.log(`hashed ${users} passwords in ${seconds(performance.now() - hashingMs)}`)
const file = join(folder, 'users.json')
await writeFile(file, JSON.stringify([...rows.slice(0, 5_000), ...refused, ...rows.slice(5_000)]))

const startedMs = performance.now()
const { code, stdout, stderr } = await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
  const env = { ...process.env, ...connectionEnvironment(database.connection), SECRET: 's'.repeat(32) }
  execFile(process.execPath, [script, '--from', 'supabase', file], { env }, (error, stdout, stderr) =>
    resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
  )
})
const tookMs = performance.now() - startedMs
console.log(stderr.trimEnd().split('\n').slice(-3).join('\n'))
console.log(stdout.trimEnd().split('\n').slice(0, 4).join('\n'))
console.log(`the whole command took ${seconds(tookMs)}`)

const app = await startApp({ connection: database.connection })
const client = api(app.baseUrl)
const signInMs = performance.now()
const chosen = Array.from({ length: sampled }, (_, index) =>
  index < costly ? index : costly + Math.floor(((index - costly) * (users - costly)) / (sampled - costly)),
)
let signedIn = 0
for (const index of chosen) {
  const { status } = await client.post('/api/v1/auth/login', { email: emailOf(index), password: passwordOf(index) })
  if (status === 200) signedIn += 1
}
console.log(`${signedIn} of ${sampled} signed in, in ${seconds(performance.now() - signInMs)}`)
const [counts] = await database.sql`
  select count(*)::int as all, count(*) filter (where password_hash like '$argon2id$%')::int as renewed from users`
console.log(`${counts?.['all']} accounts, ${counts?.['renewed']} hashes renewed`)
const isRight =
  code === 2 &&
  tookMs < withinMs &&
  signedIn === sampled &&
  counts?.['all'] === users &&
  counts?.['renewed'] === sampled
console.log(isRight ? 'as it must be' : 'WRONG')
await app.close()
await database.drop()
await rm(folder, { recursive: true, force: true })
process.exit(isRight ? 0 : 1)
