import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { findAccessDifferences, syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createFactStore } from '../../src/access/cache/fact-store.ts'
import { publishEvent, readEvent } from '../../src/access/invalidation/event-store.ts'
import type { FactQuery } from '../../src/access/policy/facts/queries.ts'
import { type FactKey, factKey, partId, partOf } from '../../src/access/policy/facts/registry.ts'
import { connect, connectOnce, type Queryable, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'
import { clear, insertInBulk, removeInBulk, store, withoutTriggers } from './world.ts'
import { anyProject, anyTeam, anyWorld, things, users } from './worlds.ts'

let database: TestDatabase
let sql: Sql
let ears: Sql
/** Since the last quiet, and before. */
let all: string[] = []
let heard: string[] = []

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  ears = connect(database.connection, { max: 1, onnotify: (_channel, payload) => void all.push(payload) })
  await ears`listen velro`
  await syncAccessRules(sql)
})
afterAll(async () => {
  await Promise.all([sql, ears].map((connection) => connection?.end({ timeout: 1 })))
  await database?.drop()
})

let marks = 0
/** Waits until all was heard that was said so far; `heard` is what came since the last time. */
const quiet = async () => {
  marks += 1
  const mark = `mark ${marks}`
  await sql`select pg_notify('velro', ${mark})`
  while (all.at(-1) !== mark) await Bun.sleep(1)
  heard = all.slice(0, -1)
  all = []
}
/** What the work announced: for each event the writer and the names, in order. */
const announced = async (work: () => Promise<unknown>): Promise<{ writer: string; keys: string[] }[]> => {
  await quiet()
  await work()
  await quiet()
  // Those who sweep up after media hear of them too.
  const events = heard.filter((payload) => payload !== 'orphans')
  return events.map((payload) => {
    const [kind, , writer = '', ...keys] = payload.split(' ')
    expect(kind).toBe('event')
    return { writer, keys: keys.sort() }
  })
}
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

/** Ada owns everything and is signed in; Bob reads the lab through a team; the lone one has nothing. */
const sow = async () => {
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
    insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
    values (${session}, ${ada}, 'u', 'a', now(), now(), now() + interval '2 days', now() + interval '2 days')`
  await sql`
    insert into service_keys (id, name, secret_hash, scopes, created_by, created_at, expires_at)
    values (${serviceKey}, 'k', sha256('k'), '{authorization:check}', ${ada}, now(), now() + interval '1 day')`
  await sql`
    insert into media_objects (sha256, content_type, bytes, width, height)
    values (${otherSha256}, 'image/png', 1, 1, 1) on conflict do nothing`
  await sql`insert into flags (name, enabled) values ('l1', true)`
  await sql`delete from access_events`
}

const wanted: readonly FactQuery[] = [
  { kind: 'session', id: session, userId: null },
  ...[ada, bob, lone].map((id): FactQuery => ({ kind: 'account', id, userId: null })),
  ...[ada, bob, lone].flatMap((userId) => [lab, den].map((id): FactQuery => ({ kind: 'project', id, userId }))),
  { kind: 'generation', id: work, userId: ada },
  { kind: 'generation', id: finished, userId: ada },
  { kind: 'media', id: picture, userId: ada },
  { kind: 'service_key', id: serviceKey, userId: null },
]

/** The names of all facts that are not the same after the work as before. */
const changed = async (asked: readonly FactQuery[], doIt: () => Promise<unknown>): Promise<FactKey[]> => {
  // All that a person was granted as one fact; and each project by itself, as if everybody had been granted many.
  const load = () => Promise.all([200, -1].map((maxGrants) => createFactStore(sql, { maxGrants }).load(asked)))
  const before = await load()
  await doIt()
  const after = await load()
  const differing = before.flatMap((facts, at) =>
    [...facts].filter(([key, fact]) => !Bun.deepEquals(fact, after[at]?.get(key))),
  )
  return [...new Set(differing.map(([key]) => key))].sort()
}

/** What is named only by what it is made of. */
const isWhole = (key: string) => key.startsWith('grants:')
/** The facts that were changed and not told of, neither by their names nor by those of their parts. */
const untold = (differing: readonly string[], keys: readonly string[]) => {
  const told = new Set(keys.flatMap((key) => [key, partOf(key as FactKey)?.whole]))
  return differing.filter((key) => !told.has(key))
}

describe('of a row, each column that shows in a fact', () => {
  /** Another value that the column may have; those of text are put an x behind, of times an hour later, and so on. */
  const others: Readonly<Record<string, string>> = {
    'sessions.user_id': `user_id = '${bob}'`,
    'sessions.ended_at': `ended_at = now(), end_reason = 'logout'`,
    'sessions.end_reason': `ended_at = now(), end_reason = 'logout'`,
    'sessions.idle_expires_at': `idle_expires_at = idle_expires_at - interval '1 hour'`,
    'sessions.expires_at': `expires_at = expires_at - interval '1 hour'`,
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
    'service_keys.created_by': `created_by = '${bob}'`,
    'service_keys.last_used_at': 'last_used_at = now()',
    'service_keys.revoked_at': 'revoked_at = now()',
  }
  /** A row of each that nothing refers to, so that even its name can be changed. */
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

  test('is told of when it is changed, by the names of those facts, and no other is', async () => {
    let columns = 0
    let shown = 0
    for (const [table, id] of Object.entries(rows)) {
      const named = await sql<{ name: string; type: string }[]>`
        select column_name as name, data_type as type from information_schema.columns
         where table_schema = 'public' and table_name = ${table}`
      for (const { name, type } of named) {
        const assignment = others[`${table}.${name}`] ?? byType[type]?.(name)
        if (assignment === undefined) throw new Error(`Say what else ${table}.${name} can be`)
        await sow()
        let differing: string[] = []
        const events = await announced(async () => {
          differing = await changed(wanted, () => sql.unsafe(`update ${table} set ${assignment} where id = '${id}'`))
        })
        columns += 1
        if (differing.length > 0) shown += 1
        // What has another id is gone by the one it had, and that is all anybody could know.
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

  test('a switch is told of with its value', async () => {
    await sow()
    expect(
      keysOf(await announced(() => sql`insert into flags (name, enabled) values ('l2', false), ('l3', true)`)),
    ).toEqual(['flag:l2=f', 'flag:l3=t'])
    expect(keysOf(await announced(() => sql`update flags set enabled = false where name = 'l1'`))).toEqual([
      'flag:l1=f',
    ])
  })
})

describe('a row', () => {
  beforeEach(sow)

  const removals: Record<string, [(tx: Sql) => PromiseLike<unknown>, string[]]> = {
    'a session that is removed': [(tx) => tx`delete from sessions`, [`session:${session}`]],
    'an account that is removed': [(tx) => tx`delete from users where id = ${lone}`, [`account:${lone}`]],
    'a generation that is removed': [
      (tx) => tx`delete from generations`,
      [`generation:${work}`, `generation:${finished}`, `media:${picture}`],
    ],
    'media that are removed': [(tx) => tx`delete from media`, [`media:${picture}`]],
    'a service key that is removed': [(tx) => tx`delete from service_keys`, [`service_key:${serviceKey}`]],
    'a project that is removed, with what was in it and who could see it': [
      (tx) => tx`delete from projects where id = ${lab}`,
      [`generation:${work}`, `grant:${partId(ada, lab)}`, `grant:${partId(bob, lab)}`, `project:${lab}`],
    ],
    'a team that is removed': [(tx) => tx`delete from teams`, [`grant:${partId(bob, lab)}`]],
    'a member that is removed': [(tx) => tx`delete from team_members`, [`grant:${partId(bob, lab)}`]],
    'a grant that is removed': [(tx) => tx`delete from project_grants`, [`grant:${partId(bob, lab)}`]],
  }
  for (const [what, [remove, keys]] of Object.entries(removals)) {
    test(`${what} is told of`, async () => {
      let differing: string[] = []
      const events = await announced(async () => {
        differing = await changed(wanted, async () => remove(sql))
      })
      expect(events.map((event) => event.keys)).toEqual([keys.sort()])
      expect(untold(differing, keys)).toEqual([])
    })
  }

  test('of a person who is removed takes the sessions along, and tells of them', async () => {
    await sql`
      insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
      values (${idOf('session', 2)}, ${lone}, 'u', 'a', now(), now(), now() + interval '1 day', now() + interval '1 day')`
    const events = await announced(() => sql`delete from users where id = ${lone}`)
    expect(events).toHaveLength(1)
    expect(keysOf(events)).toEqual([`account:${lone}`, `session:${idOf('session', 2)}`].sort())
  })

  test('of a session that was over is removed in silence', async () => {
    await sql`update sessions set ended_at = now(), end_reason = 'logout'`
    expect(await announced(() => sql`delete from sessions`)).toEqual([])
    await sow()
    await sql`update sessions set idle_expires_at = now() - interval '1 second'`
    expect(await announced(() => sql`delete from sessions`)).toEqual([])
  })

  test('that is new is made in silence, because nobody could know its name', async () => {
    const made = await announced(async () => {
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
      await sql`insert into team_members (team_id, user_id, role) values (${idOf('team', 9)}, ${bob}, 'admin')`
    })
    expect(made).toEqual([])
  })

  test('that is new is told of where it is part of what somebody was granted, which has a name already', async () => {
    const attic = idOf('project', 9)
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await tx`insert into projects (id, owner_id, name, visibility) values (${attic}, ${ada}, 'p', 'team-only')`
        await tx`
          insert into project_grants (project_id, team_id, access_level, granted_by)
          values (${attic}, ${idOf('team', 1)}, 'read', ${ada})`
      }),
    )
    expect(keysOf(events)).toEqual([`grant:${partId(bob, attic)}`])
  })

  test('that a former owner keeps through a team is told of, although owning gave no more', async () => {
    const attic = idOf('project', 9)
    await sql`insert into team_members (team_id, user_id, role) values (${idOf('team', 1)}, ${ada}, 'admin')`
    const load = async () => (await createFactStore(sql).load([{ kind: 'grants', id: ada, userId: null }])).values()
    expect([...(await load())]).toEqual([{ granted: {} }])
    const made = await announced(async () => {
      await sql`insert into projects (id, owner_id, name, visibility) values (${attic}, ${ada}, 'p', 'team-only')`
      await sql`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        values (${attic}, ${idOf('team', 1)}, 'admin', ${ada})`
    })
    expect(keysOf(made)).toEqual([`grant:${partId(bob, attic)}`])
    expect([...(await load())]).toEqual([{ granted: {} }])
    const given = await announced(() => sql`update projects set owner_id = ${lone} where id = ${attic}`)
    expect(keysOf(given)).toContain(`grant:${partId(ada, attic)}`)
    expect([...(await load())]).toEqual([{ granted: { [attic]: 127 } }])
    const back = await announced(() => sql`update projects set owner_id = ${ada} where id = ${attic}`)
    expect(keysOf(back)).toContain(`grant:${partId(ada, attic)}`)
    expect([...(await load())]).toEqual([{ granted: {} }])
  })

  test('that is written with what it was is told of by nothing', async () => {
    const events = await announced(async () => {
      await sql`update users set status = status, role = role`
      await sql`update projects set visibility = visibility, owner_id = owner_id`
      await sql`update project_grants set access_level = access_level`
      await sql`update team_members set role = role`
      await sql`update sessions set last_seen_at = now(), idle_expires_at = idle_expires_at + interval '9 days'`
    })
    expect(events).toEqual([])
  })
})

test('in any world, any change is told of by exactly the names of the facts it changed', async () => {
  await sql`delete from service_keys`
  const everything: FactQuery[] = [
    ...users.map((id): FactQuery => ({ kind: 'account', id, userId: null })),
    ...things.flatMap(({ type, id }) => users.map((userId): FactQuery => ({ kind: type, id, userId }))),
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
      const events = await announced(async () => {
        differing = await changed(everything, async () => change(sql))
      })
      told += events.length
      expect(events.length).toBeLessThanOrEqual(1)
      const keys = keysOf(events)
      expect(untold(differing, keys)).toEqual([])
      // Grants that nobody asks for, because the project is gone, private or one's own, are told of too.
      expect(keys.filter((key) => !key.startsWith('grant:') && !differing.includes(key as FactKey))).toEqual([])
    }),
    { numRuns: 150 },
  )
  expect(told).toBeGreaterThan(50)
}, 60_000)

describe('a table of what access is made of', () => {
  beforeEach(sow)
  const truncated = (statement: string) => announced(() => sql.unsafe(statement))
  const left = () => sql`select user_id, project_id from project_access order by 1, 2`
  const owned = [lab, den].sort().map((project_id) => ({ user_id: ada, project_id }))
  const told = [`grant:${partId(bob, lab)}`]

  for (const statement of ['truncate team_members', 'truncate project_grants', 'truncate teams cascade']) {
    test(`that is emptied by "${statement}" takes with it what it gave, and that is told of`, async () => {
      expect(await truncated(statement)).toEqual([{ writer: '-', keys: told }])
      expect([...(await left())]).toEqual(owned)
      expect(await findAccessDifferences(sql)).toEqual([])
      expect(await truncated(statement)).toEqual([])
    })
  }

  test('that is emptied of projects takes everything with it, and that is told of', async () => {
    expect(await truncated('truncate projects cascade')).toEqual([{ writer: '-', keys: ['*'] }])
    expect([...(await left())]).toEqual([])
  })

  test('that is emptied while somebody removes a project leaves nothing of that', async () => {
    const other = connectOnce(database.connection)
    try {
      const removed = Promise.withResolvers<void>()
      const go = Promise.withResolvers<void>()
      const slow = other.begin(async (tx) => {
        // It has not read who is a member.
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
  beforeEach(sow)
  const suspend = (tx: Queryable, id: string) => tx`update users set status = 'suspended' where id = ${id}`
  const restore = (tx: Queryable, id: string) => tx`update users set status = 'active' where id = ${id}`
  const names = (...ids: string[]) => ids.map((id) => factKey('account', id) as string).sort()

  test('tells once of all it changed, each name once', async () => {
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await suspend(tx, bob)
        await restore(tx, ada)
        await tx`update projects set visibility = 'private' where id = ${den}`
        const event = await publishEvent(tx, 'me')
        expect([...(event?.keys ?? [])].sort()).toEqual([...names(ada, bob), `project:${den}`])
      }),
    )
    expect(events).toEqual([{ writer: 'me', keys: [...names(ada, bob), `project:${den}`] }])
  })

  test('that published itself or not leaves a row with the same names and number as was heard', async () => {
    await announced(() => suspend(sql, ada))
    const [first = ''] = heard
    await announced(() =>
      sql.begin(async (tx) => {
        await suspend(tx, bob)
        await publishEvent(tx, 'me')
      }),
    )
    const [second = ''] = heard
    for (const [payload, id] of [
      [first, ada],
      [second, bob],
    ] as const) {
      expect(await readEvent(sql, payload.split(' ')[1] as string)).toEqual({
        id: payload.split(' ')[1] as string,
        keys: names(id) as FactKey[],
      })
    }
    const [row] = await sql`select count(*)::int as count from access_events`
    expect(row?.['count']).toBe(2)
  })

  test('that publishes nothing itself is told of at its commit, and nobody waits', async () => {
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await ears`select 1`
        expect(all).toEqual([])
        await suspend(tx, bob)
      }),
    )
    expect(events).toEqual([{ writer: '-', keys: names(ada, bob) }])
  })

  test('that changed something after it published tells of that too', async () => {
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await publishEvent(tx, 'me')
        await suspend(tx, bob)
      }),
    )
    expect(events).toEqual([
      { writer: 'me', keys: names(ada) },
      { writer: '-', keys: names(bob) },
    ])
  })

  test('that changed nothing has nothing to publish', async () => {
    const events = await announced(() =>
      sql.begin(async (tx) => {
        expect(await publishEvent(tx, 'me')).toBeUndefined()
        await tx`update users set display_name = 'x'`
        expect(await publishEvent(tx, 'me')).toBeUndefined()
      }),
    )
    expect(events).toEqual([])
  })

  test('that is taken back is not told of, nor is what it took back in part', async () => {
    const back = new Error('taken back')
    const whole = () =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await publishEvent(tx, 'me')
        throw back
      })
    expect(await announced(() => whole().catch((error) => expect(error).toBe(back)))).toEqual([])
    const events = await announced(() =>
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
    expect(events).toEqual([{ writer: '-', keys: names(ada) }])
    const [row] = await sql`select count(*)::int as count from access_events`
    expect(row?.['count']).toBe(1)
  })

  test('leaves nothing to the next on its connection', async () => {
    const events = await announced(async () => {
      await suspend(sql, ada)
      await sql.begin(async (tx) => void (await suspend(tx, bob).then(() => publishEvent(tx, 'me'))))
      await sql`insert into projects (id, owner_id, name) values (${idOf('project', 9)}, ${lone}, 'p')`
      await sql`update projects set owner_id = ${bob} where id = ${idOf('project', 9)}`
    })
    expect(events.map(({ keys }) => keys)).toEqual([
      names(ada),
      names(bob),
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
    const events = await announced(() => sql`update users set plan = 'pro' where email like 'many%'`)
    const [payload = ''] = heard
    const event = await readEvent(sql, payload.split(' ')[1] as string)
    await withoutTriggers(sql, (tx) => tx`delete from users where email like 'many%'`)
    return { events, event }
  }

  test('that changed more than a notification takes tells of a star, and of the names in its row', async () => {
    const { events, event } = await many(1_000)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
    expect(new Set(event?.keys).size).toBe(1_000)
  })

  test('that changed nothing is told of where that is asked for, so that it can be waited for', async () => {
    let event: Awaited<ReturnType<typeof publishEvent>>
    const events = await announced(() =>
      sql.begin(async (tx) => {
        event = await publishEvent(tx, 'me', true)
      }),
    )
    expect(events).toEqual([{ writer: 'me', keys: [] }])
    expect(event?.keys).toEqual([])
  })

  test('that emptied a table touched everything', async () => {
    const events = await announced(() => sql`truncate flags`)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
  })

  test('that changed more than 20,000 grants tells of all that was granted to each of their people', async () => {
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
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await suspend(tx, ada)
        await tx`delete from teams`
      }),
    )
    expect(events).toEqual([{ writer: '-', keys: [`account:${ada}`, `grants:${bob}`, `grants:${lone}`] }])
    expect([...(await load())]).toEqual([{ granted: {} }, { granted: {} }, { granted: {} }])
    await removeInBulk(sql)
  }, 60_000)

  test('that checks its constraints at once, whenever, tells of all it changed', async () => {
    const events = await announced(() =>
      sql.begin(async (tx) => {
        await tx`set constraints all immediate`
        await suspend(tx, ada)
        await suspend(tx, bob)
        await tx`set constraints all immediate`
        await suspend(tx, lone)
      }),
    )
    expect(events.map(({ keys }) => keys)).toEqual([names(ada, bob), names(lone)])
  })

  test('leaves a row that is as old as what it told', async () => {
    await sql.begin(async (tx) => {
      await suspend(tx, ada)
      await tx`update access_events set created_at = created_at - interval '16 minutes'`
    })
    const [row] =
      await sql`select count(*)::int as count from access_events where created_at > now() - interval '1 minute'`
    expect(row?.['count']).toBe(1)
  })

  test('that changed more than 20,000 names touched everything', async () => {
    const { events, event } = await many(20_001)
    expect(events).toEqual([{ writer: '-', keys: ['*'] }])
    expect(event?.keys).toBe('everything')
  }, 30_000)

  test('is heard of in the order of commits, although its number is from before', async () => {
    const other = connectOnce(database.connection)
    const events = await announced(async () => {
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
    expect(events.map(({ keys }) => keys)).toEqual([names(bob), names(ada)])
    await other.end()
  })
})
