import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { findAccessDifferences, syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createFactStore } from '../../src/access/cache/fact-store.ts'
import {
  createEventStore,
  readEvent,
  readSnapshot,
  recordEvent,
  sendEvents,
  sendHeartbeat,
} from '../../src/access/invalidation/event-store.ts'
import type { FactQuery } from '../../src/access/policy/facts/queries.ts'
import { type FactKey, factKey, partId, partOf } from '../../src/access/policy/facts/registry.ts'
import { connect, connectOnce, type Queryable, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'
import { clear, insertInBulk, removeInBulk, store, withoutTriggers } from './world.ts'
import { anyProject, anyTeam, anyWorld, resources, users } from './worlds.ts'

let database: TestDatabase
let sql: Sql
let listener: Sql
/** Payloads received since the last mark, and those before it. */
let buffered: string[] = []
let received: string[] = []
/** Of all events that were published here. */
const positions: number[] = []

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  listener = connect(database.connection, { max: 1, onnotify: (_channel, payload) => void buffered.push(payload) })
  await listener`listen velro`
  await syncAccessRules(sql)
})
afterAll(async () => {
  await Promise.all([sql, listener].map((connection) => connection?.end({ timeout: 1 })))
  await database?.drop()
})

let marks = 0
/** Waits until every notification sent so far has arrived; `received` are those since the last call. */
const waitForNotifications = async () => {
  marks += 1
  const mark = `mark ${marks}`
  await sql`select pg_notify('velro', ${mark})`
  while (buffered.at(-1) !== mark) await Bun.sleep(1)
  received = buffered.slice(0, -1)
  buffered = []
}
/** The events the work published: writer and sorted keys of each, in order. */
const publishedBy = async (work: () => Promise<unknown>): Promise<{ writer: string; keys: string[] }[]> => {
  await waitForNotifications()
  await work()
  await sendEvents(sql)
  await waitForNotifications()
  // Deleted media also notify the sweep of orphans.
  const events = received.filter((payload) => payload !== 'orphans')
  return events.map((payload) => {
    const [kind, , writer = '', mark, version, position = '', ...keys] = payload.split(' ')
    expect([kind, mark, version]).toEqual(['event', '*', '2'])
    positions.push(Number(position))
    return { writer, keys: keys.sort() }
  })
}
/** What an update of these users invalidates. */
const ofUsers = (...ids: string[]): string[] =>
  ids.flatMap((id) => [factKey('account', id) as string, factKey('profile', id) as string]).sort()
const keysOf = (events: readonly { keys: string[] }[]) => [...new Set(events.flatMap(({ keys }) => keys))].sort()

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const lone = idOf('user', 3)
const session = idOf('session', 1)
const lab = idOf('project', 1)
const den = idOf('project', 2)
const work = idOf('generation', 1)
const finished = idOf('generation', 2)
const picture = idOf('media', 1)
const otherSha256 = 'cd'.repeat(32)
const serviceKey = idOf('service_key', 1)

/** Ada owns everything and has a session; Bob reads the lab through a team; the third user has no access. */
const insertRows = async () => {
  await sql`delete from service_keys`
  await sql`delete from flags`
  await clear(sql)
  await store(sql, {
    users: [ada, bob, lone].map((id) => ({ id, status: 'active', role: 'user' })),
    teams: [{ id: idOf('team', 1) }],
    members: [{ team_id: idOf('team', 1), user_id: bob, role: 'editor' }],
    projects: [lab, den].map((id) => ({ id, owner_id: ada, visibility: 'team-only', allow_derivatives: true })),
    grants: [{ project_id: lab, team_id: idOf('team', 1), access_level: 'read' }],
    generations: [
      { id: work, owner_id: ada, project_id: lab },
      { id: finished, owner_id: ada, project_id: null },
    ],
    media: [{ id: picture, owner_id: ada, generation_id: finished }],
  })
  await sql`
    insert into sessions (
      id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at,
      country, earlier_countries, network_hash, browser, platform, seen_country, seen_at)
    values (
      ${session}, ${ada}, 'u', 'a', now(), now(), now() + interval '2 days', now() + interval '2 days',
      'AT', '{CH}', 'n', 'Firefox', 'Linux', 'AT', now())`
  await sql`
    insert into service_keys (id, name, secret_hash, scopes, created_by, created_at, expires_at)
    values (${serviceKey}, 'k', sha256('k'), '{authorization:check}', ${ada}, now(), now() + interval '1 day')`
  await sql`
    insert into media_objects (sha256, content_type, bytes, width, height)
    values (${otherSha256}, 'image/png', 1, 1, 1) on conflict do nothing`
  await sql`insert into flags (name, enabled) values ('l1', true)`
  await sql`delete from access_events`
}

const queriesOfUser = (id: string): FactQuery[] => [
  { kind: 'account', id, userId: null },
  { kind: 'profile', id, userId: null },
  { kind: 'memberships', id, userId: null },
]

const wanted: readonly FactQuery[] = [
  { kind: 'session', id: session, userId: null },
  ...[ada, bob, lone].flatMap(queriesOfUser),
  ...[ada, bob, lone].flatMap((userId) => [lab, den].map((id): FactQuery => ({ kind: 'project', id, userId }))),
  { kind: 'generation', id: work, userId: ada },
  { kind: 'generation', id: finished, userId: ada },
  { kind: 'media', id: picture, userId: ada },
  { kind: 'service_key', id: serviceKey, userId: null },
]

/** The keys of all facts that differ after the work. */
const changed = async (asked: readonly FactQuery[], doIt: () => Promise<unknown>): Promise<FactKey[]> => {
  // The grants of a user as one fact, and each grant by itself as for a user with many.
  const load = () => Promise.all([200, -1].map((maxGrants) => createFactStore(sql, { maxGrants }).load(asked)))
  const before = await load()
  await doIt()
  const after = await load()
  const differing = before.flatMap((facts, at) =>
    [...facts].filter(([key, fact]) => !Bun.deepEquals(fact, after[at]?.get(key))),
  )
  return [...new Set(differing.map(([key]) => key))].sort()
}

/** Keys that an event may replace by the keys of their parts. */
const isWhole = (key: string) => key.startsWith('grants:')
/** The changed facts whose keys no event had, neither themselves nor as parts. */
const untold = (differing: readonly string[], keys: readonly string[]) => {
  const told = new Set(keys.flatMap((key) => [key, partOf(key as FactKey)?.whole]))
  return differing.filter((key) => !told.has(key))
}

describe('each column that is part of a fact', () => {
  /** A different valid value for the column: text gets an x appended, a time is an hour later, and so on. */
  const others: Readonly<Record<string, string>> = {
    'sessions.user_id': `user_id = '${bob}'`,
    'sessions.ended_at': `ended_at = now(), end_reason = 'logout'`,
    'sessions.end_reason': `ended_at = now(), end_reason = 'logout'`,
    'sessions.idle_expires_at': `idle_expires_at = idle_expires_at - interval '1 hour'`,
    'sessions.expires_at': `expires_at = expires_at - interval '1 hour'`,
    'sessions.earlier_countries': `earlier_countries = '{FR}'`,
    'sessions.network_hash': `network_hash = 'other'`,
    'users.status': `status = 'suspended'`,
    'users.role': `role = 'admin'`,
    'users.plan': `plan = 'pro'`,
    'projects.owner_id': `owner_id = '${bob}'`,
    'projects.visibility': `visibility = 'public'`,
    'generations.owner_id': `owner_id = '${bob}'`,
    'generations.project_id': `project_id = '${den}'`,
    'generations.status': `status = 'failed', failure = 'failed'`,
    'generations.intent': `intent = 'fork', ancestor_ids = array['${den}'::uuid]`,
    'generations.ancestor_ids': `intent = 'fork', ancestor_ids = array['${den}'::uuid]`,
    'media.owner_id': `owner_id = '${bob}'`,
    'media.generation_id': `generation_id = '${work}'`,
    'media.sha256': `sha256 = '${otherSha256}'`,
    'generations.reference_media_id': `reference_media_id = '${picture}'`,
    'service_keys.secret_hash': `secret_hash = sha256('other')`,
    'service_keys.scopes': `scopes = '{authorization:list}'`,
    'service_keys.allowed_networks': `allowed_networks = '{192.0.2.0/24}'`,
    'service_keys.created_by': `created_by = '${bob}'`,
    'service_keys.last_used_at': 'last_used_at = now()',
    'service_keys.revoked_at': 'revoked_at = now()',
  }
  /** A row of each table without references to it, so that its id can change too. */
  const rows = {
    sessions: session,
    users: lone,
    projects: den,
    generations: work,
    media: picture,
    service_keys: serviceKey,
  } as const
  const byType: Readonly<Record<string, (column: string) => string>> = {
    text: (column) => `${column} = ${column} || 'x'`,
    'timestamp with time zone': (column) => `${column} = ${column} + interval '1 hour'`,
    boolean: (column) => `${column} = not ${column}`,
    integer: (column) => `${column} = ${column} + 1`,
    jsonb: (column) => `${column} = '{"x": 1}'`,
    uuid: (column) => `${column} = gen_random_uuid()`,
  }

  test('invalidates exactly the facts it is part of, and no other column invalidates any', async () => {
    let columns = 0
    let shown = 0
    for (const [table, id] of Object.entries(rows)) {
      const named = await sql<{ name: string; type: string }[]>`
        select column_name as name, data_type as type from information_schema.columns
         where table_schema = 'public' and table_name = ${table}`
      for (const { name, type } of named) {
        const assignment = others[`${table}.${name}`] ?? byType[type]?.(name)
        if (assignment === undefined) throw new Error(`Say what else ${table}.${name} can be`)
        await insertRows()
        let differing: string[] = []
        const events = await publishedBy(async () => {
          differing = await changed(wanted, () => sql.unsafe(`update ${table} set ${assignment} where id = '${id}'`))
        })
        columns += 1
        if (differing.length > 0) shown += 1
        // A row with a new id invalidates only the old one: the new one could not be cached.
        const isOwn = (key: string) => key.endsWith(`:${id}`)
        const told = name === 'id' ? keysOf(events).filter(isOwn) : keysOf(events)
        const own = name === 'id' ? differing.filter(isOwn) : differing
        expect([table, name, told]).toEqual([table, name, own.filter((key) => !isWhole(key))])
        expect(untold(own, told)).toEqual([])
        expect(events.length).toBeLessThanOrEqual(1)
      }
    }
    expect(columns).toBeGreaterThan(40)
    expect(shown).toBeGreaterThan(20)
  }, 60_000)

  test('of a tier switch invalidates a key that carries the new value', async () => {
    await insertRows()
    expect(
      keysOf(await publishedBy(() => sql`insert into flags (name, enabled) values ('l2', false), ('l3', true)`)),
    ).toEqual(['flag:l2=f', 'flag:l3=t'])
    expect(keysOf(await publishedBy(() => sql`update flags set enabled = false where name = 'l1'`))).toEqual([
      'flag:l1=f',
    ])
  })
})

describe('a row of a table', () => {
  beforeEach(insertRows)

  const removals: Record<string, [(tx: Sql) => PromiseLike<unknown>, string[]]> = {
    'a session': [(tx) => tx`delete from sessions`, [`session:${session}`]],
    'an account': [(tx) => tx`delete from users where id = ${lone}`, ofUsers(lone)],
    'a generation': [
      (tx) => tx`delete from generations`,
      [`generation:${work}`, `generation:${finished}`, `media:${picture}`],
    ],
    media: [(tx) => tx`delete from media`, [`media:${picture}`]],
    'a service key': [(tx) => tx`delete from service_keys`, [`service_key:${serviceKey}`]],
    'a project, with its generations and grants': [
      (tx) => tx`delete from projects where id = ${lab}`,
      [`generation:${work}`, `grant:${partId(ada, lab)}`, `grant:${partId(bob, lab)}`, `project:${lab}`],
    ],
    'a team': [(tx) => tx`delete from teams`, [`grant:${partId(bob, lab)}`, `memberships:${bob}`]],
    'a member': [(tx) => tx`delete from team_members`, [`grant:${partId(bob, lab)}`, `memberships:${bob}`]],
    'a grant': [(tx) => tx`delete from project_grants`, [`grant:${partId(bob, lab)}`]],
  }
  for (const [what, [remove, keys]] of Object.entries(removals)) {
    test(`that is removed publishes an event: ${what}`, async () => {
      let differing: string[] = []
      const events = await publishedBy(async () => {
        differing = await changed(wanted, async () => remove(sql))
      })
      expect(events.map((event) => event.keys)).toEqual([keys.sort()])
      expect(untold(differing, keys)).toEqual([])
    })
  }

  test('of a removed user also invalidates its sessions', async () => {
    await sql`
      insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
      values (${idOf('session', 2)}, ${lone}, 'u', 'a', now(), now(), now() + interval '1 day', now() + interval '1 day')`
    const events = await publishedBy(() => sql`delete from users where id = ${lone}`)
    expect(events).toHaveLength(1)
    expect(keysOf(events)).toEqual([...ofUsers(lone), `session:${idOf('session', 2)}`])
  })

  test('of an ended session is removed without an event', async () => {
    await sql`update sessions set ended_at = now(), end_reason = 'logout'`
    expect(await publishedBy(() => sql`delete from sessions`)).toEqual([])
    await insertRows()
    await sql`update sessions set idle_expires_at = now() - interval '1 second'`
    expect(await publishedBy(() => sql`delete from sessions`)).toEqual([])
  })

  test('that is new publishes no event, because it could not be cached', async () => {
    const made = await publishedBy(async () => {
      await sql`insert into users (id, email, display_name, password_hash) values (${idOf('user', 9)}, 'x@y.z', 'u', 'x')`
      await sql`
        insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
        values (${idOf('session', 9)}, ${ada}, 'u', 'a', now(), now(), now(), now())`
      await sql`insert into projects (id, owner_id, name) values (${idOf('project', 9)}, ${ada}, 'p')`
      await sql`insert into generations (id, owner_id, model, prompt) values (${idOf('generation', 9)}, ${ada}, 'm', 'p')`
      await sql`
        insert into service_keys (id, name, secret_hash, scopes, created_by, created_at)
        values (${idOf('service_key', 9)}, 'k', sha256('x'), '{authorization:check}', ${ada}, now())`
      await sql`insert into teams (id, name) values (${idOf('team', 9)}, 't')`
      await sql`
        insert into feature_flag_versions (id, name, version, description, changed_at, changed_by)
        values (gen_random_uuid(), 'f', 1, '', now(), ${ada})`
      await sql`delete from feature_flag_versions`
    })
    expect(made).toEqual([])
  })

  test('that is new publishes an event where it is part of a fact made of many rows: a membership, a feature flag', async () => {
    await sql`insert into teams (id, name) values (${idOf('team', 9)}, 't')`
    const joined = await publishedBy(
      () => sql`insert into team_members (team_id, user_id, role) values (${idOf('team', 9)}, ${lone}, 'viewer')`,
    )
    expect(keysOf(joined)).toEqual([`memberships:${lone}`])
    const ofFlags = ['feature_flags:00000000-0000-0000-0000-000000000000']
    for (const change of [
      sql`
        insert into feature_flags (id, name, version, definition, description, updated_at, updated_by)
        values (gen_random_uuid(), 'f', 1, '{}', '', now(), ${ada})`,
      sql`update feature_flags set definition = '{"enabled": true}'`,
      sql`delete from feature_flags`,
    ]) {
      expect(keysOf(await publishedBy(async () => await change))).toEqual(ofFlags)
    }
    expect(keysOf(await publishedBy(() => sql`truncate feature_flags`))).toEqual(['*'])
  })

  test('that gets another role publishes no event for the teams of the member, and one for both where it gets another user', async () => {
    await sql`insert into team_members (team_id, user_id, role) values (${idOf('team', 1)}, ${ada}, 'admin')`
    const change = (to: string) =>
      publishedBy(() => sql.unsafe(`update team_members set ${to} where user_id = '${ada}'`))
    expect(keysOf(await change("role = 'viewer'")).filter((key) => key.startsWith('memberships:'))).toEqual([])
    expect(keysOf(await change(`user_id = '${lone}'`)).filter((key) => key.startsWith('memberships:'))).toEqual([
      `memberships:${ada}`,
      `memberships:${lone}`,
    ])
  })

  test('that is new publishes an event where it is part of existing grants of a user', async () => {
    const attic = idOf('project', 9)
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await tx`insert into projects (id, owner_id, name, visibility) values (${attic}, ${ada}, 'p', 'team-only')`
        await tx`
          insert into project_grants (project_id, team_id, access_level, granted_by)
          values (${attic}, ${idOf('team', 1)}, 'read', ${ada})`
      }),
    )
    expect(keysOf(events)).toEqual([`grant:${partId(bob, attic)}`])
  })

  test('of access that a former owner keeps through a team publishes an event, even with equal actions', async () => {
    const attic = idOf('project', 9)
    await sql`insert into team_members (team_id, user_id, role) values (${idOf('team', 1)}, ${ada}, 'admin')`
    const load = async () => (await createFactStore(sql).load([{ kind: 'grants', id: ada, userId: null }])).values()
    expect([...(await load())]).toEqual([{ granted: {} }])
    const made = await publishedBy(async () => {
      await sql`insert into projects (id, owner_id, name, visibility) values (${attic}, ${ada}, 'p', 'team-only')`
      await sql`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        values (${attic}, ${idOf('team', 1)}, 'admin', ${ada})`
    })
    expect(keysOf(made)).toEqual([`grant:${partId(bob, attic)}`])
    expect([...(await load())]).toEqual([{ granted: {} }])
    const given = await publishedBy(() => sql`update projects set owner_id = ${lone} where id = ${attic}`)
    expect(keysOf(given)).toContain(`grant:${partId(ada, attic)}`)
    expect([...(await load())]).toEqual([{ granted: { [attic]: 127 } }])
    const back = await publishedBy(() => sql`update projects set owner_id = ${ada} where id = ${attic}`)
    expect(keysOf(back)).toContain(`grant:${partId(ada, attic)}`)
    expect([...(await load())]).toEqual([{ granted: {} }])
  })

  test('that is updated to equal values publishes no event', async () => {
    const events = await publishedBy(async () => {
      await sql`update users set status = status, role = role`
      await sql`update projects set visibility = visibility, owner_id = owner_id`
      await sql`update project_grants set access_level = access_level`
      await sql`update team_members set role = role`
      await sql`update sessions set last_seen_at = now(), idle_expires_at = idle_expires_at + interval '9 days'`
    })
    expect(events).toEqual([])
  })
})

test('in random worlds, every change publishes exactly the keys of the facts it changed', async () => {
  await sql`delete from service_keys`
  const everything: FactQuery[] = [
    ...users.flatMap(queriesOfUser),
    ...resources.flatMap(({ type, id }) => users.map((userId): FactQuery => ({ kind: type, id, userId }))),
  ]
  const anyChange = fc.oneof(
    fc.tuple(anyProject, fc.constantFrom('private', 'team-only', 'public')).map(
      ([id, to]) =>
        (tx: Sql) =>
          tx`update projects set visibility = ${to} where id = ${id}`,
    ),
    fc.tuple(anyProject, fc.constantFrom(...users)).map(
      ([id, to]) =>
        (tx: Sql) =>
          tx`update projects set owner_id = ${to} where id = ${id}`,
    ),
    anyProject.map((id) => (tx: Sql) => tx`delete from projects where id = ${id}`),
    anyTeam.map((id) => (tx: Sql) => tx`delete from teams where id = ${id}`),
    fc.tuple(anyTeam, fc.constantFrom(...users)).map(
      ([team, user]) =>
        (tx: Sql) =>
          tx`delete from team_members where team_id = ${team} and user_id = ${user}`,
    ),
    fc.tuple(anyTeam, fc.constantFrom(...users), fc.constantFrom('admin', 'editor', 'viewer')).map(
      ([team, user, role]) =>
        (tx: Sql) =>
          tx`
          insert into team_members (team_id, user_id, role) values (${team}, ${user}, ${role})
              on conflict (team_id, user_id) do update set role = excluded.role where team_members.role <> 'owner'`,
    ),
    fc.tuple(anyTeam, anyProject, fc.constantFrom('read', 'write', 'admin')).map(
      ([team, project, level]) =>
        (tx: Sql) =>
          tx`
          insert into project_grants (team_id, project_id, access_level, granted_by)
          values (${team}, ${project}, ${level}, ${users[0] as string})
              on conflict (project_id, team_id) do update set access_level = excluded.access_level`,
    ),
    fc.constant((tx: Sql) => tx`update generations set project_id = null`),
    fc.constant((tx: Sql) => tx`update users set status = 'suspended' where status = 'active'`),
  )
  let told = 0
  await fc.assert(
    fc.asyncProperty(anyWorld, anyChange, async (world, change) => {
      await clear(sql)
      await store(sql, world)
      let differing: string[] = []
      const events = await publishedBy(async () => {
        differing = await changed(everything, async () => change(sql))
      })
      told += events.length
      expect(events.length).toBeLessThanOrEqual(1)
      const keys = keysOf(events)
      expect(untold(differing, keys)).toEqual([])
      // Keys of grants that no decision reads (deleted, private or owned project) may be published too.
      expect(keys.filter((key) => !key.startsWith('grant:') && !differing.includes(key as FactKey))).toEqual([])
    }),
    { numRuns: 150 },
  )
  expect(told).toBeGreaterThan(50)
}, 60_000)

describe('a table that access derives from', () => {
  beforeEach(insertRows)
  const truncated = (statement: string) => publishedBy(() => sql.unsafe(statement))
  const left = () => sql`select user_id, project_id from project_access order by 1, 2`
  const owned = [lab, den].sort().map((project_id) => ({ user_id: ada, project_id }))
  const told = [`grant:${partId(bob, lab)}`]

  for (const [statement, keys, again] of [
    // Which teams a user is a member of is a fact too, and TRUNCATE does not say whose rows it removes.
    ['truncate team_members', ['*'], [['*']]],
    ['truncate teams cascade', ['*'], [['*']]],
    ['truncate project_grants', told, []],
  ] as const) {
    test(`that is emptied by "${statement}" removes the access it gave and publishes it`, async () => {
      expect(await truncated(statement)).toEqual([{ writer: '-', keys: [...keys] }])
      expect([...(await left())]).toEqual(owned)
      expect(await findAccessDifferences(sql)).toEqual([])
      expect(await truncated(statement)).toEqual(again.map((each) => ({ writer: '-', keys: [...each] })))
    })
  }

  test('that is emptied with the projects removes all access and publishes it', async () => {
    expect(await truncated('truncate projects cascade')).toEqual([{ writer: '-', keys: ['*'] }])
    expect([...(await left())]).toEqual([])
  })

  test('that is emptied during the removal of a project leaves no effective row', async () => {
    const other = connectOnce(database.connection)
    try {
      const removed = Promise.withResolvers<void>()
      const go = Promise.withResolvers<void>()
      const slow = other.begin(async (tx) => {
        // The other transaction has not read the members yet.
        await tx`delete from projects where id = ${lab}`
        removed.resolve()
        await go.promise
      })
      await removed.promise
      const emptied = sql`truncate team_members`.execute()
      await Bun.sleep(200)
      go.resolve()
      await Promise.all([slow, emptied])
      expect([...(await left())]).toEqual([{ user_id: ada, project_id: den }])
      expect(await findAccessDifferences(sql)).toEqual([])
    } finally {
      await other.end()
    }
  })
})

describe('a transaction', () => {
  beforeEach(insertRows)
  const suspend = (tx: Queryable, id: string) => tx`update users set status = 'suspended' where id = ${id}`
  const restore = (tx: Queryable, id: string) => tx`update users set status = 'active' where id = ${id}`

  test('publishes one event with each key once', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await suspend(tx, bob)
        await restore(tx, ada)
        await tx`update projects set visibility = 'private' where id = ${den}`
        const event = await recordEvent(tx, 'me')
        expect([...(event?.keys ?? [])].sort()).toEqual([...ofUsers(ada, bob), `project:${den}`])
      }),
    )
    expect(events).toEqual([{ writer: 'me', keys: [...ofUsers(ada, bob), `project:${den}`] }])
  })

  test('leaves an event row with the id and keys of the notification, whether it published itself or not', async () => {
    await publishedBy(() => suspend(sql, ada))
    const [first = ''] = received
    await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, bob)
        await recordEvent(tx, 'me')
      }),
    )
    const [second = ''] = received
    for (const [payload, id] of [
      [first, ada],
      [second, bob],
    ] as const) {
      expect(await readEvent(sql, payload.split(' ')[1] as string)).toEqual({
        id: payload.split(' ')[1] as string,
        keys: expect.arrayContaining(ofUsers(id)),
      })
    }
    const [row] = await sql`select count(*)::int as count from access_events`
    expect(row?.['count']).toBe(2)
  })

  test('that does not publish is published at its commit, without a writer', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await listener`select 1`
        expect(buffered).toEqual([])
        await suspend(tx, bob)
      }),
    )
    expect(events).toEqual([{ writer: '-', keys: ofUsers(ada, bob) }])
  })

  test('publishes changes made after it published as well', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await recordEvent(tx, 'me')
        await suspend(tx, bob)
      }),
    )
    expect(events).toEqual([
      { writer: 'me', keys: ofUsers(ada) },
      { writer: '-', keys: ofUsers(bob) },
    ])
  })

  test('that changed no fact publishes nothing', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        expect(await recordEvent(tx, 'me')).toBeUndefined()
        await tx`update users set password_hash = 'y'`
        expect(await recordEvent(tx, 'me')).toBeUndefined()
      }),
    )
    expect(events).toEqual([])
  })

  test('whose settings are reset invalidates everything, and later changes by name', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await tx`reset all`
        await suspend(tx, bob)
      }),
    )
    expect(events).toEqual([
      { writer: '-', keys: ['*'] },
      { writer: '-', keys: ofUsers(bob) },
    ])
    const [payload = ''] = received
    expect((await readEvent(sql, payload.split(' ')[1] as string))?.keys).toBe('everything')
  })

  test('whose settings are reset after it published sends the published keys', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await recordEvent(tx, 'me')
        await tx`reset all`
      }),
    )
    expect(events).toEqual([{ writer: 'me', keys: ofUsers(ada) }])
  })

  test('that deletes the row of its event invalidates everything', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await tx`delete from access_events`
      }),
    )
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
  })

  test('of many at once, some rolled back, leaves no gap in the positions, which have the order of the notifications', async () => {
    const others = Array.from({ length: 8 }, () => connectOnce(database.connection))
    await sql`
      insert into users (id, email, display_name, password_hash)
      select id, id || '@example.com', 'u', 'x' from unnest(${others.map((_, at) => idOf('user', 10 + at))}::uuid[]) id`
    const before = positions.length
    await publishedBy(() =>
      Promise.all(
        others.map(async (other, at) => {
          for (let round = 0; round < 20; round += 1) {
            const work = other.begin(async (tx) => {
              await tx`update users set plan = case plan when 'pro' then 'free' else 'pro' end where id = ${idOf('user', 10 + at)}`
              if (round % 2 === 0) await recordEvent(tx, 'me')
              if (round % 5 === 0) throw new Error('taken back')
            })
            await work.catch(() => {})
          }
        }),
      ),
    )
    const [first = 0] = positions.slice(before)
    expect(positions.slice(before)).toEqual(Array.from({ length: 8 * 16 }, (_, at) => first + at))
    await Promise.all(others.map((other) => other.end()))
  })

  test('whose database lost the row of positions begins them anew', async () => {
    const [{ position = '0' } = {}] = await sql<{ position: string }[]>`delete from event_positions returning position`
    await publishedBy(() => suspend(sql, ada))
    expect(positions.at(-1)).toBe(1)
    await sql`update event_positions set position = ${position}`
  })

  test('that is rolled back publishes nothing, nor do its rolled-back savepoints', async () => {
    const back = new Error('taken back')
    const whole = () =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await recordEvent(tx, 'me')
        throw back
      })
    expect(await publishedBy(() => whole().catch((error) => expect(error).toBe(back)))).toEqual([])
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await tx
          .savepoint(async (inner) => {
            await suspend(inner, lone)
            throw back
          })
          .catch(() => {})
        await suspend(tx, ada)
        await tx
          .savepoint(async (inner) => {
            await suspend(inner, bob)
            throw back
          })
          .catch(() => {})
      }),
    )
    expect(events).toEqual([{ writer: '-', keys: ofUsers(ada) }])
    const [row] = await sql`select count(*)::int as count from access_events`
    expect(row?.['count']).toBe(1)
  })

  test('leaves no keys for the next one on its connection', async () => {
    const events = await publishedBy(async () => {
      await suspend(sql, ada)
      await sql.begin(async (tx) => void (await suspend(tx, bob).then(() => recordEvent(tx, 'me'))))
      await sql`insert into projects (id, owner_id, name) values (${idOf('project', 9)}, ${lone}, 'p')`
      await sql`update projects set owner_id = ${bob} where id = ${idOf('project', 9)}`
    })
    expect(events.map(({ keys }) => keys)).toEqual([
      ofUsers(ada),
      ofUsers(bob),
      [
        `grant:${partId(bob, idOf('project', 9))}`,
        `grant:${partId(lone, idOf('project', 9))}`,
        `project:${idOf('project', 9)}`,
      ],
    ])
  })

  const many = async (count: number) => {
    await sql`
      insert into users (id, email, display_name, password_hash)
      select gen_random_uuid(), 'many' || at || '@example.com', 'u', 'x' from generate_series(1, ${count}::int) at`
    const events = await publishedBy(() => sql`update users set plan = 'pro' where email like 'many%'`)
    const [payload = ''] = received
    const event = await readEvent(sql, payload.split(' ')[1] as string)
    await withoutTriggers(sql, (tx) => tx`delete from users where email like 'many%'`)
    return { events, event }
  }

  test('with more keys than fit into a notification sends a star and stores the keys in its row', async () => {
    const { events, event } = await many(1_000)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
    expect(new Set(event?.keys).size).toBe(2_000)
  })

  test('that changed no fact publishes on request, so that its writer can wait', async () => {
    let event: Awaited<ReturnType<typeof recordEvent>>
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        event = await recordEvent(tx, 'me', true)
      }),
    )
    expect(events).toEqual([{ writer: 'me', keys: [] }])
    expect(event?.keys).toEqual([])
  })

  test('that emptied a table invalidates everything', async () => {
    const events = await publishedBy(() => sql`truncate flags`)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
  })

  test('that changed more than 20,000 grants invalidates all grants of each user concerned', async () => {
    const people = [ada, bob, lone]
    await insertInBulk(sql, async (tx) => {
      await tx`
        insert into projects (id, owner_id, name, visibility)
        select gen_random_uuid(), ${ada}, 'p', 'team-only' from generate_series(1, 10001)`
      await tx`
        insert into team_members (team_id, user_id, role) values (${idOf('team', 1)}, ${lone}, 'viewer')`
      await tx`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        select id, ${idOf('team', 1)}, 'read', ${ada} from projects where name = 'p' on conflict do nothing`
    })
    const load = async () =>
      (await createFactStore(sql).load(people.map((id): FactQuery => ({ kind: 'grants', id, userId: null })))).values()
    expect([...(await load())]).toEqual([{ granted: {} }, 'many', 'many'])
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await tx`delete from teams`
      }),
    )
    expect(events).toEqual([
      {
        writer: '-',
        keys: [
          `account:${ada}`,
          `grants:${bob}`,
          `grants:${lone}`,
          `memberships:${bob}`,
          `memberships:${lone}`,
          `profile:${ada}`,
        ],
      },
    ])
    expect([...(await load())]).toEqual([{ granted: {} }, { granted: {} }, { granted: {} }])
    await removeInBulk(sql)
  }, 60_000)

  test('with immediate constraints, set at any time, publishes all its changes', async () => {
    const events = await publishedBy(() =>
      sql.begin(async (tx) => {
        await tx`set constraints all immediate`
        await suspend(tx, ada)
        await suspend(tx, bob)
        await tx`set constraints all immediate`
        await suspend(tx, lone)
      }),
    )
    expect(events.map(({ keys }) => keys)).toEqual([ofUsers(ada, bob), ofUsers(lone)])
  })

  test('stamps its event row with the time of publication', async () => {
    await sql.begin(async (tx) => {
      await suspend(tx, ada)
      await tx`update access_events set created_at = created_at - interval '16 minutes'`
    })
    const [row] =
      await sql`select count(*)::int as count from access_events where created_at > now() - interval '1 minute'`
    expect(row?.['count']).toBe(1)
  })

  test('that changed more than 20,000 keys invalidates everything', async () => {
    const { events, event } = await many(20_001)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
    expect(event?.keys).toBe('everything')
  }, 30_000)

  test('is delivered in commit order, even with an older event id', async () => {
    const other = connectOnce(database.connection)
    const events = await publishedBy(async () => {
      const opened = Promise.withResolvers<void>()
      const go = Promise.withResolvers<void>()
      const slow = other.begin(async (tx) => {
        await suspend(tx, ada)
        opened.resolve()
        await go.promise
      })
      await opened.promise
      await suspend(sql, bob)
      go.resolve()
      await slow
    })
    expect(events.map(({ keys }) => keys)).toEqual([ofUsers(bob), ofUsers(ada)])
    await other.end()
  })
})

describe('a recorded event', () => {
  beforeEach(insertRows)
  const suspend = (on: Queryable, id: string) => on`update users set status = 'suspended' where id = ${id}`
  const recorded = (id: string, on: Sql = sql) =>
    on.begin(async (tx) => {
      await suspend(tx, id)
      await recordEvent(tx, 'me')
    })
  /** Payloads that arrive while the work runs and nothing else is sent. */
  const sentBy = async (work: () => Promise<unknown>): Promise<string[]> => {
    await waitForNotifications()
    await work()
    await waitForNotifications()
    return received
  }
  const keysIn = (payloads: readonly string[]) => payloads.map((payload) => payload.split(' ').slice(6))

  test('is not sent with its commit, and once by those that send at the same time', async () => {
    expect(await sentBy(() => recorded(ada))).toEqual([])
    const others = Array.from({ length: 4 }, () => connectOnce(database.connection))
    expect(keysIn(await sentBy(() => Promise.all(others.map(sendEvents))))).toEqual([ofUsers(ada)])
    expect(await sentBy(() => sendEvents(sql))).toEqual([])
    await Promise.all(others.map((other) => other.end()))
  })

  test('that its writer did not send is sent by a heartbeat, ahead of it, and the heartbeat names its position', async () => {
    await recorded(ada)
    const [event = '', beat = ''] = await sentBy(() => sendHeartbeat(sql, 'other', '1.1'))
    expect(keysIn([event])).toEqual([ofUsers(ada)])
    expect(beat.split(' ').slice(0, 4)).toEqual(['beat', 'other', '1.1', '2'])
    expect(beat.split(' ')[5]).toBe(event.split(' ')[5] as string)
  })

  test('is sent ahead of a write that is sent with its commit', async () => {
    await recorded(ada)
    expect(keysIn(await sentBy(() => suspend(sql, bob)))).toEqual([ofUsers(ada), ofUsers(bob)])
  })

  test('is sent behind the event of a change that its transaction has seen, even with an older event id', async () => {
    const other = connectOnce(database.connection)
    const payloads = await sentBy(async () => {
      await sql.begin(async (tx) => {
        await suspend(tx, bob)
        await recorded(ada, other)
        await recordEvent(tx, 'me')
      })
      await sendEvents(sql)
    })
    expect(keysIn(payloads)).toEqual([ofUsers(ada), ofUsers(bob)])
    await other.end()
  })

  test('counts in the position of a snapshot before it is sent', async () => {
    const before = await readSnapshot(sql)
    await recorded(ada)
    const after = await readSnapshot(sql)
    expect(after.position).toBe(before.position + 1)
    await sendEvents(sql)
    expect((await readSnapshot(sql)).position).toBe(after.position)
  })

  test('is not removed before it is sent', async () => {
    await recorded(ada)
    const [{ id = '' } = {}] = await sql<{ id: string }[]>`select id from access_events`
    await createEventStore(sql).remove([id], '-')
    expect(await readEvent(sql, id)).toMatchObject({ id })
    await sendEvents(sql)
    await createEventStore(sql).remove([id], '-')
    expect(await readEvent(sql, id)).toBeUndefined()
  })

  test('whose row its transaction deleted invalidates everything', async () => {
    const payloads = await sentBy(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await recordEvent(tx, 'me')
        await tx`delete from access_events`
      }),
    )
    expect(keysIn(payloads)).toEqual([['*']])
  })
})
