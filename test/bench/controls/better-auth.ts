/**
 * Better Auth with the same Postgres, a Redis and the same argon2id parameters, at the routes of its own. `PEERS` is the
 * folder where it is installed: `bun add better-auth pg` there.
 */
import { join } from 'node:path'
import { hash, verify } from '@node-rs/argon2'
import { Redis } from 'ioredis'
import { argon2Options } from '../../../src/identity/passwords.ts'

const folder = join(process.env['PEERS'] ?? '', 'better-auth/node_modules')
type Load<T> = (file: string) => Promise<T>
const load: Load<Record<string, unknown>> = (file) => import(join(folder, file))

type Auth = { handler(request: Request): Promise<Response>; options: object }
type Exports = {
  betterAuth(options: object): Auth
  bearer(): object
  getMigrations(options: object): Promise<{ runMigrations(): Promise<void> }>
  Pool: new (options: object) => object
}
const { betterAuth, bearer, getMigrations, Pool } = Object.assign(
  {},
  await load('better-auth/dist/index.mjs'),
  await load('better-auth/dist/plugins/index.mjs'),
  await load('better-auth/dist/db/get-migration.mjs'),
  await load('pg/esm/index.mjs'),
) as Exports

const port = Number(process.env['PORT'])
const redis = new Redis(process.env['REDIS_URL'] ?? '')
const options = {
  baseURL: `http://127.0.0.1:${port}`,
  secret: process.env['SECRET'],
  logger: { level: 'error' },
  telemetry: { enabled: false },
  rateLimit: { enabled: false },
  database: new Pool({
    host: process.env['PGHOST'],
    port: Number(process.env['PGPORT']),
    user: process.env['PGUSER'],
    database: process.env['PEER_DATABASE'],
    max: 24,
  }),
  secondaryStorage: {
    get: (key: string) => redis.get(key),
    set: async (key: string, value: string, ttl?: number) => {
      await (ttl ? redis.set(key, value, 'EX', ttl) : redis.set(key, value))
    },
    delete: async (key: string) => {
      await redis.del(key)
    },
  },
  emailAndPassword: {
    enabled: true,
    password: {
      hash: (password: string) => hash(password, argon2Options),
      verify: (given: { hash: string; password: string }) => verify(given.hash, given.password),
    },
  },
  plugins: [bearer()],
}
const auth = betterAuth(options)
await (await getMigrations(options)).runMigrations()

Bun.serve({
  hostname: '127.0.0.1',
  port,
  fetch: (request) => (request.url.endsWith('/ready') ? new Response('ready') : auth.handler(request)),
})

process.on('SIGTERM', () => process.exit(0))
