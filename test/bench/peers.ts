import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { actionBit, actions, levelActions, publicActions, roleActions } from '../../src/access/policy/matrix.ts'
import type { Mix } from './mix.ts'
import { freePort, onEnd, type Server, startServer } from './servers.ts'

/** A peer is not installed: its scenario is left out. */
export class PeerMissing extends Error {
  override readonly name = 'PeerMissing'
}

const peers = process.env['VELRO_PEERS'] ?? '/var/tmp/velro-peers'

const findOpenFga = (): string => {
  const path = Bun.which('openfga') ?? Bun.which(join(peers, 'openfga')) ?? Bun.which(join(homedir(), 'go/bin/openfga'))
  if (path !== null) return path
  throw new PeerMissing('OpenFGA is not installed: go install github.com/openfga/openfga/cmd/openfga@v1.22.1')
}

/** Better Auth on a database of the same server. */
export const startBetterAuth = async ({ env, sql }: Mix, redis: Readonly<Record<string, string>>): Promise<Server> => {
  if (!existsSync(join(peers, 'better-auth/node_modules/better-auth'))) {
    throw new PeerMissing(`Better Auth is not installed: bun add better-auth@1.7.25 pg, in ${peers}/better-auth`)
  }
  if (env['PGHOST'] === undefined) throw new PeerMissing('Better Auth is measured with the embedded Postgres only')
  await sql`create database better_auth`
  return startServer('test/bench/controls/better-auth.ts', {
    ...{ ...env, ...redis, PEERS: peers, PEER_DATABASE: 'better_auth' },
  })
}

type Usersets = { readonly [name: string]: unknown }
type Type = { type: string; relations?: Usersets; metadata?: unknown }

const direct = (...types: readonly object[]) => ({ directly_related_user_types: types })
const self = { this: {} }
const computed = (relation: string) => ({ computedUserset: { relation } })
const through = (tupleset: string, relation: string) => ({
  tupleToUserset: { tupleset: { relation: tupleset }, computedUserset: { relation } },
})
const union = (...child: readonly object[]) => ({ union: { child } })

/** The access matrix of Velro as a model of OpenFGA. */
const model = (): object => {
  const roles = Object.keys(roleActions) as (keyof typeof roleActions)[]
  const levels = Object.keys(levelActions) as (keyof typeof levelActions)[]
  const user = direct({ type: 'user' })
  const includes = (set: number, action: (typeof actions)[number]) => (set & actionBit[action]) !== 0
  const team: Type = {
    type: 'team',
    relations: {
      ...Object.fromEntries(roles.map((role) => [role, self])),
      ...Object.fromEntries(
        actions.map((action) => [
          `may_${action}`,
          union(...roles.filter((role) => includes(roleActions[role], action)).map(computed)),
        ]),
      ),
    },
    metadata: { relations: Object.fromEntries(roles.map((role) => [role, user])) },
  }
  const project: Type = {
    type: 'project',
    relations: {
      ...{ owner: self, everybody: self },
      ...Object.fromEntries(levels.map((level) => [`${level}_team`, self])),
      ...Object.fromEntries(
        actions.map((action) => [
          `may_${action}`,
          union(
            computed('owner'),
            ...(includes(publicActions, action) ? [computed('everybody')] : []),
            ...levels
              .filter((level) => includes(levelActions[level], action))
              .map((level) => through(`${level}_team`, `may_${action}`)),
          ),
        ]),
      ),
    },
    metadata: {
      relations: {
        ...{ owner: user, everybody: direct({ type: 'user', wildcard: {} }) },
        ...Object.fromEntries(levels.map((level) => [`${level}_team`, direct({ type: 'team' })])),
      },
    },
  }
  const generation: Type = {
    type: 'generation',
    relations: {
      ...{ owner: self, project: self },
      ...Object.fromEntries(
        actions.map((action) => [
          `may_${action}`,
          action === 'admin'
            ? { difference: { base: through('project', 'may_admin'), subtract: computed('owner') } }
            : union(computed('owner'), through('project', `may_${action}`)),
        ]),
      ),
    },
    metadata: { relations: { owner: user, project: direct({ type: 'project' }) } },
  }
  return { schema_version: '1.1', type_definitions: [{ type: 'user' }, team, project, generation] }
}

type Tuple = { readonly user: string; readonly relation: string; readonly object: string }

const tuplesOf = async ({ sql }: Mix): Promise<Tuple[]> => {
  const rows = await sql<Tuple[]>`
    select 'user:' || user_id as user, role as relation, 'team:' || team_id as object from team_members
    union all select 'user:' || owner_id, 'owner', 'project:' || id from projects
    union all select 'user:*', 'everybody', 'project:' || id from projects where visibility = 'public'
    union all select 'team:' || g.team_id, g.access_level || '_team', 'project:' || g.project_id
      from project_grants g join projects p on p.id = g.project_id and p.visibility <> 'private'
    union all select 'user:' || owner_id, 'owner', 'generation:' || id from generations
    union all select 'project:' || project_id, 'project', 'generation:' || id from generations where project_id is not null`
  return [...rows]
}

export type OpenFga = Server & { readonly store: string; readonly modelId: string }

const post = async (url: string, body: unknown): Promise<Record<string, unknown>> => {
  const response = await fetch(url, { method: 'POST', body: JSON.stringify(body) })
  if (!response.ok) throw new Error(`${url} said ${response.status}: ${await response.text()}`)
  return (await response.json()) as Record<string, unknown>
}

const tuplesAtOnce = 100

/** OpenFGA with its caches on, on a database of the same server, with the world of the mix as tuples. */
export const startOpenFga = async (mix: Mix): Promise<OpenFga> => {
  const program = findOpenFga()
  const { env, sql } = mix
  if (env['PGHOST'] === undefined) throw new PeerMissing('OpenFGA is measured with the embedded Postgres only')
  await sql`create database openfga`
  const query = `host=${encodeURIComponent(env['PGHOST'])}&port=${env['PGPORT']}&sslmode=disable`
  const datastore = [
    '--datastore-engine',
    'postgres',
    '--datastore-uri',
    `postgres://${env['PGUSER']}@/openfga?${query}`,
  ]
  const migration = Bun.spawnSync([program, 'migrate', ...datastore], { stdout: 'pipe', stderr: 'pipe' })
  if (migration.exitCode !== 0) throw new Error(`openfga migrate: ${migration.stdout}${migration.stderr}`)
  const [port, grpcPort] = [await freePort(), await freePort()]
  const url = `http://127.0.0.1:${port}`
  const startedMs = performance.now()
  const child = Bun.spawn(
    [
      ...[program, 'run', ...datastore, '--http-addr', `127.0.0.1:${port}`, '--grpc-addr', `127.0.0.1:${grpcPort}`],
      ...['--check-query-cache-enabled', '--check-iterator-cache-enabled', '--cache-controller-enabled'],
      ...['--list-objects-iterator-cache-enabled', '--listObjects-max-results', '0', '--check-cache-limit', '100000'],
      ...['--playground-enabled=false', '--log-level', 'error', '--metrics-enabled=false'],
    ],
    { stdout: 'ignore', stderr: 'inherit' },
  )
  const stop = async () => {
    child.kill()
    await child.exited
  }
  onEnd({ stop })
  const healthy = () =>
    fetch(`${url}/healthz`).then(
      (response) => response.ok,
      () => false,
    )
  while (!(await healthy())) {
    if (child.exitCode !== null) throw new Error('openfga run ended')
    await Bun.sleep(50)
  }
  const store = String((await post(`${url}/stores`, { name: 'bench' }))['id'])
  const modelId = String((await post(`${url}/stores/${store}/authorization-models`, model()))['authorization_model_id'])
  const tuples = await tuplesOf(mix)
  for (let at = 0; at < tuples.length; at += tuplesAtOnce) {
    await post(`${url}/stores/${store}/write`, {
      writes: { tuple_keys: tuples.slice(at, at + tuplesAtOnce) },
      authorization_model_id: modelId,
    })
  }
  return { url, pid: child.pid, readyAfterMs: performance.now() - startedMs, stop, store, modelId }
}
