import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { until } from '../faults/support.ts'
import { createTemplate, startCluster } from '../harness/database.ts'
import { startPgbouncer } from '../harness/pgbouncer.ts'
import { reapFolder } from '../harness/reaper.ts'
import { findS3Server, startS3 } from '../harness/s3.ts'
import { freePort, type Runtime, startRedis, type TestConnection } from '../harness.ts'
import {
  findHaproxy,
  findNginx,
  findPgbouncer,
  findPostgres,
  findRedis,
  findValkey,
  startHaproxy,
  startNginx,
  startPostgres,
} from './programs.ts'

/** A set-up that people have. */
export type Cell = {
  /** Major version; `embedded` is the one of the npm package. */
  readonly postgres: number | 'embedded'
  readonly route: 'direct' | 'PgBouncer' | 'PgBouncer 1.18 in session mode'
  readonly cache: keyof typeof caches
  readonly front: 'no proxy' | 'nginx' | 'HAProxy'
  readonly media: 'disk' | 'S3'
  readonly runtime: Runtime
}

type Environment = Readonly<Record<string, string>>
type StartRedis = typeof startRedis

export type Cache = {
  /** Undefined where it is not installed. */
  program(): string | undefined
  readonly programName: string
  /** Undefined: the server runs without Redis. */
  readonly start?: StartRedis
  readonly environment?: Environment
  /** The event by which the log says that the server stores nothing there. Undefined: it stores entries. */
  readonly unused?: string
}

const temporaryFolder = (name: string): string => {
  const folder = mkdtempSync(join(tmpdir(), `velro-${name}-`))
  reapFolder(folder)
  return folder
}

const withFlags =
  (find: () => string | undefined, ...flags: readonly string[]): StartRedis =>
  (options = {}) => {
    const program = find()
    return startRedis({ ...options, ...(program && { program }), flags: [...(options.flags ?? []), ...flags] })
  }

/** A node that owns all slots, also after a restart in the same folder. */
const clusterOfOne =
  (find: () => string | undefined): StartRedis =>
  async ({ flags = ['--dir', temporaryFolder('cluster')], ...options } = {}) => {
    const node = await withFlags(find, '--cluster-enabled', 'yes')({ ...options, flags })
    const client = new Redis(node.url)
    const info = async () => String(await client.call('CLUSTER', 'INFO'))
    if ((await info()).includes('cluster_slots_assigned:0')) await client.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
    await until(async () => (await info()).includes('cluster_state:ok'), 'the cluster is well')
    client.disconnect()
    return node
  }

const certificates = temporaryFolder('certificates')
const authority = join(certificates, 'authority.pem')

/** A certificate for `localhost` of an authority of our own. Deno accepts none that is signed by itself. */
const makeCertificate = () => {
  // The reaper removes the folder after each cell.
  mkdirSync(certificates, { recursive: true })
  reapFolder(certificates)
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: certificates, stdio: 'ignore' })
  const forName = (name: string) => ['-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${name}`]
  openssl('req', '-x509', ...forName('authority'), '-days', '2', '-keyout', 'authority.key', '-out', authority)
  openssl('req', ...forName('localhost'), '-keyout', 'key.pem', '-out', 'request.pem')
  writeFileSync(join(certificates, 'extensions'), 'subjectAltName=DNS:localhost')
  const signed = ['-CA', authority, '-CAkey', 'authority.key', '-CAcreateserial', '-extfile', 'extensions']
  openssl('x509', '-req', '-in', 'request.pem', ...signed, '-days', '2', '-out', 'certificate.pem')
}

/** A server with a password behind TLS. */
const startTlsRedis: StartRedis = async (options = {}) => {
  if (!existsSync(authority)) makeCertificate()
  const [file, key] = [join(certificates, 'certificate.pem'), join(certificates, 'key.pem')]
  const port = options.port ?? (await freePort())
  const flags = [...(options.flags ?? []), '--port', '0', '--tls-port', `${port}`, '--requirepass', 'a secret/of redis']
  flags.push('--tls-cert-file', file, '--tls-key-file', key, '--tls-auth-clients', 'no')
  const server = await startRedis({ ...options, flags })
  return { ...server, url: `rediss://:${encodeURIComponent('a secret/of redis')}@localhost:${port}` }
}

const redis = { program: findRedis, programName: 'Redis' }
const valkey = { program: findValkey, programName: 'Valkey' }

export const caches = {
  Redis: { ...redis, start: withFlags(findRedis) },
  Valkey: { ...valkey, start: withFlags(findValkey) },
  'no Redis': { program: () => 'none', programName: 'none' },
  'Redis over TLS with a password': {
    ...redis,
    start: startTlsRedis,
    environment: { NODE_EXTRA_CA_CERTS: authority },
  },
  'Redis that is full, with noeviction': {
    ...redis,
    start: withFlags(findRedis, '--maxmemory', '1mb', '--maxmemory-policy', 'noeviction'),
    unused: 'redis.full',
  },
  'Redis that refuses INFO': {
    ...redis,
    start: withFlags(findRedis, '--user', 'default', 'on', 'nopass', '~*', '&*', '+@all', '-info'),
    unused: 'redis.unsuitable',
  },
  'Redis Cluster of one node': { ...redis, start: clusterOfOne(findRedis) },
  'Valkey Cluster of one node': { ...valkey, start: clusterOfOne(findValkey) },
} satisfies Readonly<Record<string, Cache>>

const plain: Cell = {
  postgres: 'embedded',
  route: 'direct',
  cache: 'Redis',
  front: 'no proxy',
  media: 'disk',
  runtime: 'bun',
}

export const cells: readonly Cell[] = [
  { ...plain, postgres: 15, front: 'nginx' },
  { ...plain, postgres: 15, route: 'PgBouncer' },
  { ...plain, postgres: 15, route: 'PgBouncer 1.18 in session mode', front: 'HAProxy' },
  { ...plain, postgres: 16, route: 'PgBouncer', front: 'nginx' },
  { ...plain, postgres: 17, cache: 'Valkey' },
  { ...plain, postgres: 17, route: 'PgBouncer', cache: 'Valkey', front: 'HAProxy' },
  { ...plain, cache: 'Valkey', front: 'HAProxy' },
  { ...plain, route: 'PgBouncer', front: 'nginx', media: 'S3', runtime: 'deno' },
  { ...plain, media: 'S3' },
  { ...plain, cache: 'no Redis', runtime: 'deno' },
  { ...plain, cache: 'Redis over TLS with a password' },
  { ...plain, cache: 'Redis over TLS with a password', runtime: 'deno' },
  { ...plain, cache: 'Redis that is full, with noeviction' },
  { ...plain, cache: 'Redis that refuses INFO' },
  { ...plain, cache: 'Redis Cluster of one node' },
  { ...plain, cache: 'Valkey Cluster of one node' },
]

export const nameOf = ({ postgres, route, cache, front, media, runtime }: Cell): string =>
  [`Postgres ${postgres === 'embedded' ? '18 (embedded)' : postgres}`, route, cache, front, media, runtime].join(', ')

const poolerOf = (route: Cell['route']): string | undefined => findPgbouncer(route === 'PgBouncer' ? 'newer' : 'older')

/** The programs of a cell that are not installed. */
export const missingFor = ({ postgres, route, cache, front, media }: Cell): string[] => {
  const { program, programName } = caches[cache]
  return [
    ...(postgres !== 'embedded' && findPostgres(postgres) === undefined ? [`Postgres ${postgres}`] : []),
    ...(route !== 'direct' && poolerOf(route) === undefined ? [route.replace(/ in .*/, '')] : []),
    ...(program() === undefined ? [programName] : []),
    ...(front === 'nginx' && findNginx() === undefined ? ['nginx'] : []),
    ...(front === 'HAProxy' && findHaproxy() === undefined ? ['HAProxy'] : []),
    ...(media === 'S3' && findS3Server() === undefined ? ['versitygw'] : []),
  ]
}

export type Way = {
  /** Direct. */
  readonly connection: TestConnection
  /** What an instance gets for a database of this server. */
  environment(connection: TestConnection): Environment
  restartPooler?(): Promise<void>
}

/** Starts the Postgres and the pooler of a cell. The reaper ends them. */
export const openWay = async ({ postgres, route }: Cell): Promise<Way> => {
  const started = postgres === 'embedded' ? undefined : await startPostgres(postgres, { max_connections: '300' })
  if (started) console.log(started.version)
  const connection = started ?? (await startCluster())
  if (started) await createTemplate(connection)
  if (route === 'direct') return { connection, environment: () => ({}) }
  const settings =
    route === 'PgBouncer' ? { max_prepared_statements: '200' } : { pool_mode: 'session', default_pool_size: '80' }
  const pooler = await startPgbouncer(connection, { program: poolerOf(route), settings })
  console.log(pooler.version)
  const direct = ({ host, port, user, database }: TestConnection) =>
    `postgres:///${database}?host=${encodeURIComponent(host)}&port=${port}&user=${user}`
  return {
    connection,
    environment: (given) => ({
      DATABASE_URL: pooler.url(given.database),
      // In session mode a pooler passes notifications on.
      ...(route === 'PgBouncer' && { DATABASE_BUS_URL: direct(given) }),
    }),
    restartPooler: pooler.restart,
  }
}

export const startFront = async (front: Cell['front'], port: number): Promise<number> =>
  front === 'nginx'
    ? (await startNginx(port)).port
    : front === 'HAProxy'
      ? (await startHaproxy(port, 'http')).port
      : port

/** The environment of a server that stores its media as the cell says. */
export const mediaEnvironment = async (media: Cell['media']): Promise<Environment> => {
  const program = findS3Server()
  if (media === 'disk' || program === undefined) return {}
  const { endpoint, region, bucket, accessKeyId, secretAccessKey } = await startS3(program)
  return {
    S3_ENDPOINT: endpoint,
    S3_REGION: region,
    S3_BUCKET: bucket,
    S3_ACCESS_KEY_ID: accessKeyId,
    S3_SECRET_ACCESS_KEY: secretAccessKey,
  }
}
