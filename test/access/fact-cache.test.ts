import { beforeEach, describe, expect, test } from 'bun:test'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import type { LoadedFacts } from '../../src/access/cache/fact-store.ts'
import { isInvalidated } from '../../src/access/cache/shared-loads.ts'
import { loadFromStore } from '../../src/access/cache/tiered-loader.ts'
import type { GenerationFact } from '../../src/access/policy/facts/generation.ts'
import type { ProjectFact } from '../../src/access/policy/facts/project.ts'
import { type FactQuery, factQuery, principalQueries, resourceQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import type { ResourceFacts } from '../../src/access/policy/facts/resource-walk.ts'
import { type ResourceRef, setOf } from '../../src/access/policy/matrix.ts'
import { Overloaded } from '../../src/kit/admission.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines, type Deadline } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { always } from './alone.ts'
import { idOf } from './random.ts'

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const session = idOf('session', 1)
const lab: ResourceRef = { type: 'project', id: idOf('project', 1) }
const den: ResourceRef = { type: 'project', id: idOf('project', 2) }
const work: ResourceRef = { type: 'generation', id: idOf('generation', 1) }

const open: ProjectFact = { ownerId: ada, visibility: 'public', allowDerivatives: true }
const shut: ProjectFact = { ...open, visibility: 'private' }
const inLab: GenerationFact = { ownerId: ada, projectId: lab.id, status: 'queued' }
const look = setOf('read', 'download')

const ofLab = factKey('project', lab.id)
const ofDen = factKey('project', den.id)
const ofWork = factKey('generation', work.id)
const toBob = factKey('grant', partId(bob, lab.id))
const toAda = factKey('grant', partId(ada, lab.id))
const allToBob = factKey('grants', bob)

/** A fake database: the test decides when a statement reads the world and when its result arrives. */
const slowDatabase = () => {
  const world = new Map<FactKey, Fact[FactKind]>()
  /** Users with more grants than fit into one fact. */
  const many = new Set<string>()
  const statements: { wanted: string[]; read: () => void; answer: () => void; fail: (error: Error) => void }[] = []
  const grantsOf = (userId: string): Fact['grants'] => {
    const prefix = factKey('grant', partId(userId, ''))
    const own = [...world].filter(([key]) => key.startsWith(prefix))
    const granted = Object.fromEntries(own.map(([key, fact]) => [key.slice(prefix.length), fact as Fact['grant']]))
    return many.has(userId) ? 'many' : { granted }
  }
  /** As the real loader: with a generation comes its project, with a resource the grants of the user. */
  const look = (wanted: readonly FactQuery[]) => {
    const seen = new Map<FactKey, Fact[FactKind] | null>()
    const see = (kind: FactKind, id: string) => {
      const key = factKey(kind, id)
      const fact = world.get(key) ?? null
      seen.set(key, fact)
      return fact
    }
    for (const { kind, id, userId } of wanted) {
      if (kind === 'grants' || (kind !== 'grant' && userId !== null)) {
        const person = userId ?? id
        seen.set(factKey('grants', person), grantsOf(person))
      }
      const fact = kind === 'grant' || kind === 'grants' ? null : see(kind, id)
      const projectId = kind === 'generation' ? ((fact as GenerationFact | null)?.projectId ?? null) : id
      if (kind === 'generation' && projectId !== null) see('project', projectId)
      if (userId !== null && projectId !== null && (kind === 'grant' || many.has(userId))) {
        const grant = partId(userId, projectId)
        seen.set(factKey('grant', grant), world.get(factKey('grant', grant)) ?? 0)
      }
    }
    return seen
  }
  const load = (wanted: readonly FactQuery[]) => {
    const { promise, resolve, reject } = Promise.withResolvers<LoadedFacts>()
    let snapshot: LoadedFacts | undefined
    const read = () => {
      snapshot = look(wanted)
    }
    statements.push({
      wanted: wanted.map(({ kind, id, userId }) => (userId === null ? `${kind}:${id}` : `${kind}:${id} for ${userId}`)),
      read,
      answer: () => {
        if (snapshot === undefined) read()
        resolve(snapshot as LoadedFacts)
      },
      fail: reject,
    })
    return promise
  }
  const statement = (index: number) => {
    const found = statements[index]
    if (found === undefined) throw new Error(`No statement ${index} was sent`)
    return found
  }
  return { world, many, statements, statement, load }
}

/** Runs everything that does not wait for the database. */
const runPending = () => new Promise<void>((resolve) => setImmediate(resolve))

let clock: ReturnType<typeof manualClock>
let database: ReturnType<typeof slowDatabase>
let facts: FactCache
let deadline: Deadline

const createCache = (options: { maxEntries?: number; ttlMs?: number; renewAheadMs?: number } = {}) =>
  createFactCache({
    load: loadFromStore(database, always.flags),
    memory: createTtlMap({ clock, ttlMs: 60_000, jitter: 0, ...options }),
    clock,
    ...always,
  })

beforeEach(() => {
  clock = manualClock()
  database = slowDatabase()
  facts = createCache()
  deadline = createDeadlines(clock)(5_000)
})

const queriesOf = (userId: string, ...refs: ResourceRef[]): FactQuery[] => refs.map((ref) => resourceQuery(ref, userId))

const ask = async (userId: string, ref: ResourceRef): Promise<ResourceFacts> =>
  (await facts.gather(queriesOf(userId, ref), deadline)).resource(ref, userId)

/** Changes the world and invalidates the fact, as a committed change does. */
const change = (key: FactKey, fact: Fact[FactKind] | undefined) => {
  if (fact === undefined) database.world.delete(key)
  else database.world.set(key, fact)
  facts.invalidate([key])
}

describe('the fact cache', () => {
  test('sends one statement for a thousand concurrent misses on one fact', async () => {
    database.world.set(ofLab, open)
    const asked = Array.from({ length: 1_000 }, () => ask(bob, lab))
    expect(database.statements).toHaveLength(1)
    database.statement(0).answer()
    for (const answer of await Promise.all(asked)) expect(answer.project).toEqual(open)
    expect(database.statements).toHaveLength(1)
  })

  test('sends four statements for misses on different facts, and one for all that come meanwhile', async () => {
    const refs = Array.from(
      { length: 100 },
      (_, number): ResourceRef => ({ type: 'project', id: idOf('project', number) }),
    )
    for (const { id } of refs) database.world.set(factKey('project', id), open)
    const asked = refs.map((ref) => ask(bob, ref))
    expect(database.statements.map(({ wanted }) => wanted.length)).toEqual([1, 1, 1, 1])
    database.statement(2).answer()
    await runPending()
    expect(database.statements.map(({ wanted }) => wanted.length)).toEqual([1, 1, 1, 1, 96])
    for (const { answer } of database.statements) answer()
    for (const answer of await Promise.all(asked)) expect(answer.project).toEqual(open)
    expect(database.statements).toHaveLength(5)
  })

  test('loads again for the one caller of a collected statement whose fact was invalidated meanwhile', async () => {
    database.world.set(ofLab, open)
    database.world.set(ofDen, open)
    const busy = [1, 2, 3, 4].map((number) => ask(idOf('user', 10 + number), lab))
    const [aboutLab, aboutDen] = [ask(bob, lab), ask(bob, den)]
    database.statement(0).answer()
    await runPending()
    expect(database.statement(4).wanted).toHaveLength(2)
    database.statement(4).read()
    change(ofLab, shut)
    database.statement(4).answer()
    await runPending()
    expect((await aboutDen).project).toEqual(open)
    for (const { answer } of database.statements) answer()
    expect((await aboutLab).project).toEqual(shut)
    for (const { answer } of database.statements) answer()
    await Promise.all(busy)
  })

  test('counts the tier of the facts that a caller asked for, not of others in the same load', async () => {
    const load = async () => ({
      facts: new Map<FactKey, Fact[FactKind] | null>([
        [ofLab, open],
        [ofDen, open],
        [allToBob, { granted: {} }],
      ]),
      tier: 'l3' as const,
      redisAgesMs: new Map([
        [ofLab, 20],
        [allToBob, 10],
      ]),
    })
    const askedAbout = (ref: ResourceRef) =>
      createFactCache({ load, memory: createTtlMap({ clock, ttlMs: 60_000 }), clock, ...always }).gather(
        queriesOf(bob, ref),
        deadline,
      )
    expect(await askedAbout(lab)).toMatchObject({ tier: 'l2', ageMs: 20 })
    expect(await askedAbout(den)).toMatchObject({ tier: 'l3', ageMs: 10 })
  })

  test('is not held up by an admission that refuses statements, because it bounds its own', async () => {
    database.world.set(ofLab, open)
    const refusing = Object.assign(deadline, { admit: () => Promise.reject(new Overloaded()) })
    const asked = facts.gather(queriesOf(bob, lab), refusing)
    database.statement(0).answer()
    expect((await asked).resource(lab, bob).project).toEqual(open)
  })

  test('counts a fact as invalidated by its own key, a part by its whole, and a whole by any part', () => {
    const by = (...keys: FactKey[]) => [new Set(keys)]
    expect(isInvalidated(ofLab, by(ofLab))).toBe(true)
    expect(isInvalidated(ofLab, by(ofDen, toBob, allToBob))).toBe(false)
    expect(isInvalidated(toBob, by(allToBob))).toBe(true)
    expect(isInvalidated(toBob, by(toAda, factKey('grants', ada)))).toBe(false)
    expect(isInvalidated(allToBob, by(toBob))).toBe(true)
    expect(isInvalidated(allToBob, by(toAda))).toBe(false)
    expect(isInvalidated(ofLab, ['everything'])).toBe(true)
    expect(isInvalidated(ofLab, [])).toBe(false)
  })

  test('loads an unknown session, account and resource with one statement', async () => {
    const gathered = facts.gather([...principalQueries(session, ada), ...queriesOf(ada, work)], deadline)
    expect(database.statement(0).wanted.sort()).toEqual(
      [`account:${ada}`, `generation:${work.id} for ${ada}`, `session:${session}`].sort(),
    )
    database.statement(0).answer()
    await gathered
    expect(database.statements).toHaveLength(1)
  })

  test('loads only the project and the grants when the generation is known', async () => {
    database.world.set(ofWork, inLab)
    database.world.set(ofLab, { ...open, visibility: 'team-only' })
    database.world.set(toBob, look)
    const first = ask(bob, work)
    database.statement(0).answer()
    await first
    facts.invalidate([ofLab])
    const second = ask(bob, work)
    expect(database.statement(1).wanted).toEqual([`project:${lab.id}`])
    database.statement(1).answer()
    expect((await second).grant).toBe(look)
    facts.invalidate([allToBob])
    const third = ask(bob, work)
    expect(database.statement(2).wanted).toEqual([`grants:${bob}`])
    database.statement(2).answer()
    expect((await third).grant).toBe(look)
  })

  test('loads all grants of a user with the first project, and later projects without grants', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(ofDen, { ...open, visibility: 'team-only' })
    database.world.set(ofWork, inLab).set(toBob, look)
    const first = ask(bob, den)
    expect(database.statement(0).wanted).toEqual([`project:${den.id} for ${bob}`])
    database.statement(0).answer()
    expect((await first).grant).toBe(0)
    const second = ask(bob, work)
    expect(database.statement(1).wanted).toEqual([`generation:${work.id}`])
    database.statement(1).answer()
    expect((await second).grant).toBe(look)
    expect((await facts.gather(queriesOf(bob, lab), deadline)).tier).toBe('l1')
  })

  test('loads all grants again for the project whose grant changed, and answers for other projects from memory until then', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(ofDen, { ...open, visibility: 'team-only' })
    database.world.set(toBob, look)
    const first = facts.gather(queriesOf(bob, lab, den), deadline)
    database.statement(0).answer()
    await first
    change(toBob, setOf('read'))
    expect(facts.peekResource(lab, bob)).toBeUndefined()
    expect(facts.peekResource(den, bob)?.grant).toBe(0)
    change(factKey('grant', partId(bob, den.id)), look)
    const again = ask(bob, lab)
    expect(database.statement(1).wanted).toEqual([`grants:${bob}`])
    database.statement(1).answer()
    expect((await again).grant).toBe(setOf('read'))
    expect(facts.peekResource(den, bob)?.grant).toBe(look)
    expect(database.statements).toHaveLength(2)
  })

  test('loads an unknown project together with the grants when its grant changed', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(toBob, look)
    const first = ask(bob, lab)
    database.statement(0).answer()
    await first
    facts.invalidate([ofLab, toBob])
    const again = ask(bob, lab)
    expect(database.statement(1).wanted).toEqual([`project:${lab.id} for ${bob}`])
    database.statement(1).answer()
    expect((await again).grant).toBe(look)
    expect(database.statements).toHaveLength(2)
  })

  test('loads an unknown generation together with the grants when the grant on any project changed', async () => {
    database.world
      .set(ofLab, { ...open, visibility: 'team-only' })
      .set(ofWork, inLab)
      .set(toBob, look)
    const first = ask(bob, lab)
    database.statement(0).answer()
    await first
    change(toBob, setOf('read'))
    const again = ask(bob, work)
    expect(database.statement(1).wanted).toEqual([`generation:${work.id} for ${bob}`])
    database.statement(1).answer()
    expect((await again).grant).toBe(setOf('read'))
    expect(database.statements).toHaveLength(2)
  })

  test('keeps the age of grants when projects are excluded from them, and drops them when too many are', async () => {
    facts = createCache({ ttlMs: 1_000 })
    database.world.set(ofLab, { ...open, visibility: 'team-only' })
    const first = ask(bob, lab)
    database.statement(0).answer()
    await first
    const leaveOut = (at: number) => facts.invalidate([factKey('grant', partId(bob, idOf('project', 100 + at)))])
    clock.advance(600)
    leaveOut(0)
    for (let times = 0; times < 20; times += 1) leaveOut(1)
    expect((await facts.gather(queriesOf(bob, lab), deadline)).ageMs).toBe(600)
    expect(facts.peekResource(lab, bob)?.grant).toBe(0)
    for (let at = 2; at < 16; at += 1) leaveOut(at)
    expect(facts.peekResource(lab, bob)?.grant).toBe(0)
    leaveOut(16)
    expect(facts.peekResource(lab, bob)).toBeUndefined()
    const second = ask(bob, lab)
    database.statement(1).answer()
    await second
    leaveOut(0)
    clock.advance(1_000)
    expect(facts.peekResource(lab, bob)).toBeUndefined()
  })

  test('loads grants project by project for a user with more than fit into one fact', async () => {
    database.many.add(bob)
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(ofDen, { ...open, visibility: 'team-only' })
    database.world.set(ofWork, inLab).set(toBob, look)
    const first = ask(bob, den)
    database.statement(0).answer()
    expect((await first).grant).toBe(0)
    const second = ask(bob, work)
    expect(database.statement(1).wanted).toEqual([`generation:${work.id} for ${bob}`])
    database.statement(1).answer()
    expect((await second).grant).toBe(look)
    facts.invalidate([toBob])
    const third = ask(bob, lab)
    expect(database.statement(2).wanted).toEqual([`grant:${lab.id} for ${bob}`])
    database.statement(2).answer()
    expect((await third).grant).toBe(look)
    expect(database.statements).toHaveLength(3)
  })

  test('drops the grants on every project, in memory and in loads under way, when all grants of a user are invalidated', async () => {
    const toBobInDen = factKey('grant', partId(bob, den.id))
    const cyd = idOf('user', 3)
    for (const id of [bob, cyd]) database.many.add(id)
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(ofDen, { ...open, visibility: 'team-only' })
    database.world.set(toBob, look).set(toBobInDen, look)
    const known = facts.gather(
      [bob, cyd].flatMap((userId) => queriesOf(userId, lab)),
      deadline,
    )
    database.statement(0).answer()
    await known
    expect(facts.peekResource(lab, bob)?.grant).toBe(look)
    const late = ask(bob, den)
    database.statement(1).read()
    database.world.delete(toBob)
    database.world.delete(toBobInDen)
    facts.invalidate([allToBob])
    expect(facts.peekResource(lab, cyd)?.grant).toBe(0)
    const asked = ask(bob, lab)
    for (let next = 1; next < 6; next += 1) {
      for (const statement of database.statements) statement.answer()
      await runPending()
    }
    expect([(await late).grant, (await asked).grant]).toEqual([0, 0])
    expect([den, lab].map((ref) => facts.peekResource(ref, bob)?.grant)).toEqual([0, 0])
  })

  test('answers correctly when the grants of a user grow beyond one fact, and when they shrink to fit again', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(toBob, look)
    for (const [at, grant] of [look, 0, look, 0].entries()) {
      if (at % 2 === 0) database.many.delete(bob)
      else database.many.add(bob)
      change(toBob, grant)
      const asked = ask(bob, lab)
      for (let next = 0; next < 3; next += 1) {
        for (const statement of database.statements) statement.answer()
        await runPending()
      }
      expect((await asked).grant).toBe(grant)
    }
    expect(database.statements.length).toBeLessThanOrEqual(6)
  })

  test('gives each of two users in one batch about one resource their own grant', async () => {
    database.world.set(ofWork, { ...inLab, ownerId: idOf('user', 3) })
    database.world.set(ofLab, { ...open, ownerId: idOf('user', 3) })
    database.world.set(toBob, look)
    const accounts = [ada, bob].map((id) => factQuery('account', id))
    const resources = [ada, bob].flatMap((userId) => queriesOf(userId, work))
    const gathered = facts.gather([...accounts, ...resources], deadline)
    database.statement(0).answer()
    const view = await gathered
    expect(view.resource(work, ada).grant).toBe(0)
    expect(view.resource(work, bob).grant).toBe(look)
    expect(database.statements).toHaveLength(1)
  })

  test('caches an absent resource and does not load it again', async () => {
    const first = ask(bob, lab)
    database.statement(0).answer()
    expect(await first).toEqual({ project: undefined, generation: undefined, grant: undefined })
    expect((await facts.gather(queriesOf(bob, lab), deadline)).tier).toBe('l1')
    expect((await facts.gather(queriesOf(ada, lab), deadline)).tier).toBe('l1')
    expect(database.statements).toHaveLength(1)
  })

  test('caches that nothing was granted', async () => {
    database.world.set(ofLab, open)
    const first = ask(bob, lab)
    database.statement(0).answer()
    expect((await first).grant).toBe(0)
    expect((await facts.gather(queriesOf(bob, lab), deadline)).tier).toBe('l1')
  })

  test('does not cache a failed load, and loads again for the next question', async () => {
    const failed = ask(bob, lab)
    database.statement(0).fail(new Error('gone'))
    expect(failed).rejects.toThrow('gone')
    await runPending()
    const second = ask(bob, lab)
    database.statement(1).answer()
    await second
  })

  test('fails every gather that joined a load when it fails', async () => {
    const joined = Array.from({ length: 3 }, () => ask(bob, lab))
    expect(database.statements).toHaveLength(1)
    database.statement(0).fail(new Error('gone'))
    for (const { status } of await Promise.allSettled(joined)) expect(status).toBe('rejected')
  })

  test('answers with one statement when memory has no room for the facts', async () => {
    facts = createCache({ maxEntries: 1 })
    database.world.set(ofWork, inLab)
    database.world.set(ofLab, open)
    database.world.set(toBob, look)
    const gathered = facts.gather(
      [factQuery('account', ada), factQuery('account', bob), ...queriesOf(bob, work)],
      deadline,
    )
    database.statement(0).answer()
    expect((await gathered).resource(work, bob)).toEqual({ project: open, generation: inLab, grant: look })
    expect(database.statements).toHaveLength(1)
  })

  test('answers with facts that expire during the gather', async () => {
    facts = createCache({ ttlMs: 1_000 })
    database.world.set(ofLab, open)
    database.world.set(factKey('account', bob), { status: 'active', role: 'user', plan: 'free', limits: null })
    const first = ask(bob, lab)
    database.statement(0).answer()
    await first
    const known = facts.gather(queriesOf(bob, lab), deadline)
    clock.advance(1_001)
    expect((await known).resource(lab, bob).project).toEqual(open)
  })
})

describe('an invalidation', () => {
  test('between two reads makes the second one load again', async () => {
    database.world.set(ofLab, open)
    const before = ask(bob, lab)
    database.statement(0).answer()
    expect((await before).project).toEqual(open)
    change(ofLab, shut)
    const after = ask(bob, lab)
    database.statement(1).answer()
    expect((await after).project).toEqual(shut)
  })

  test('between the read of Postgres and its result discards that result for the caller and for memory', async () => {
    database.world.set(ofLab, open)
    const overtaken = ask(bob, lab)
    database.statement(0).read()
    change(ofLab, shut)
    database.statement(0).answer()
    await runPending()
    database.statement(1).answer()
    expect((await overtaken).project).toEqual(shut)
    expect(facts.peekResource(lab, bob)?.project).toEqual(shut)
    expect(database.statements).toHaveLength(2)
  })

  test('causes one more load, also without room in memory', async () => {
    facts = createCache({ ttlMs: 0 })
    database.world.set(ofLab, open)
    const overtaken = ask(bob, lab)
    database.statement(0).read()
    change(ofLab, shut)
    database.statement(0).answer()
    await runPending()
    database.statement(1).answer()
    expect((await overtaken).project).toEqual(shut)
    expect(database.statements).toHaveLength(2)
  })

  test('of a withdrawn grant between the read of Postgres and its result discards the grant', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' })
    database.world.set(toBob, look)
    const overtaken = ask(bob, lab)
    database.statement(0).read()
    change(toBob, undefined)
    database.statement(0).answer()
    await runPending()
    expect(database.statement(1).wanted).toEqual([`grants:${bob}`])
    database.statement(1).answer()
    expect((await overtaken).grant).toBe(0)
    expect(facts.peekResource(lab, bob)?.grant).toBe(0)
  })

  test('detaches a load under way: a later question starts its own', async () => {
    database.world.set(ofLab, open)
    const early = ask(bob, lab)
    database.statement(0).read()
    change(ofLab, shut)
    const late = ask(bob, lab)
    expect(database.statements).toHaveLength(2)
    database.statement(1).answer()
    expect((await late).project).toEqual(shut)
    database.statement(0).answer()
    await runPending()
    expect((await early).project).toEqual(shut)
    expect(facts.peekResource(lab, bob)?.project).toEqual(shut)
  })

  for (const [what, key, fact] of [
    ['project', ofLab, shut],
    ['grant', toBob, undefined],
  ] as const) {
    test(`discards the old ${what} that a load of an unchanged generation includes`, async () => {
      database.world.set(ofWork, inLab)
      database.world.set(ofLab, { ...open, visibility: 'team-only' })
      database.world.set(toBob, look)
      const early = ask(bob, work)
      database.statement(0).read()
      change(key, fact)
      const late = ask(bob, work)
      database.statement(1).answer()
      const now = await late
      expect(now.project?.visibility === 'private' || now.grant === 0).toBeTrue()
      database.statement(0).answer()
      await runPending()
      expect(await early).toEqual(now)
      expect(facts.peekResource(work, bob)).toEqual(now)
    })
  }

  test('of one user’s grant leaves the grant of another user in the same batch', async () => {
    database.world.set(ofLab, { ...open, ownerId: idOf('user', 3) })
    database.world.set(toAda, look)
    database.world.set(toBob, look)
    const gathered = facts.gather(
      [ada, bob].flatMap((userId) => queriesOf(userId, lab)),
      deadline,
    )
    database.statement(0).read()
    change(toBob, undefined)
    database.statement(0).answer()
    await runPending()
    expect(database.statement(1).wanted).toEqual([`grants:${bob}`])
    database.statement(1).answer()
    const view = await gathered
    expect([view.resource(lab, ada).grant, view.resource(lab, bob).grant]).toEqual([look, 0])
  })

  test('of a cached generation while its project is loaded makes it load again', async () => {
    database.world.set(ofWork, inLab)
    database.world.set(ofLab, open)
    const first = ask(bob, work)
    database.statement(0).answer()
    await first
    facts.invalidate([ofLab])
    const second = ask(bob, work)
    database.statement(1).read()
    change(ofWork, { ...inLab, projectId: null })
    database.statement(1).answer()
    await runPending()
    expect(database.statement(2).wanted).toEqual([`generation:${work.id}`])
    database.statement(2).answer()
    expect(await second).toEqual({
      project: undefined,
      generation: { ...inLab, projectId: null },
      grant: undefined,
    })
  })

  test('after a load has arrived and before the gather continues prevents a mix of two snapshots', async () => {
    database.world.set(ofWork, { ...inLab, projectId: den.id })
    database.world.set(ofDen, { ...shut, ownerId: idOf('user', 3) })
    const batch = facts.gather(queriesOf(bob, work, lab), deadline)
    const alone = facts.gather(queriesOf(bob, work), deadline)
    database.statement(0).answer()
    // After the load has filled memory, before the gather resumes.
    await Promise.resolve()
    while (facts.peekResource(work, bob) === undefined) await Promise.resolve()
    change(ofWork, { ...inLab, projectId: null })
    await runPending()
    for (const statement of database.statements.slice(1)) statement.answer()
    for (const view of [await batch, await alone]) expect(view.resource(work, bob).generation?.projectId).toBeNull()
  })

  test('in every round makes the gather answer from the snapshot of one statement that began after the question', async () => {
    database.world.set(ofLab, open)
    const asked = ask(bob, lab)
    for (let index = 0; database.statements.length < 10 && index < 10; index += 1) {
      const statement = database.statements[index]
      if (statement === undefined) break
      statement.read()
      change(ofLab, { ...open, allowDerivatives: index % 2 === 0 })
      statement.answer()
      await runPending()
    }
    expect((await asked).project?.visibility).toBe('public')
    // Four rounds and the fifth statement, which read the world after the fourth change and before its own.
    expect(database.statements).toHaveLength(5)
    expect((await asked).project?.allowDerivatives).toBeFalse()
    expect((database.world.get(ofLab) as ProjectFact).allowDerivatives).toBeTrue()
    expect(facts.peekResource(lab, bob)).toBeUndefined()
  })

  test('of another fact keeps the load under way', async () => {
    database.world.set(ofLab, open)
    const asked = ask(bob, lab)
    database.statement(0).read()
    facts.invalidate([ofDen, factKey('session', session), toAda])
    database.statement(0).answer()
    expect((await asked).project).toEqual(open)
    expect(facts.peekResource(lab, bob)?.project).toEqual(open)
    expect(database.statements).toHaveLength(1)
  })
})

test('facts from Redis alone are loaded again from Postgres when the lease ends during the load', async () => {
  const lease = { untilMs: clock.monotonic() + 1_000 }
  const loads: string[] = []
  facts = createFactCache({
    load: async (_queries, { bypassRedis = false } = {}) => {
      loads.push(bypassRedis ? 'Postgres' : 'Redis first')
      clock.advance(1_000)
      return bypassRedis
        ? { facts: new Map([[ofLab, shut]]), tier: 'l3', redisAgesMs: new Map() }
        : { facts: new Map([[ofLab, open]]), tier: 'l2', redisAgesMs: new Map([[ofLab, 7]]) }
    },
    memory: createTtlMap({ clock, ttlMs: 60_000 }),
    clock,
    lease,
    flags: always.flags,
  })
  const gathered = await facts.gather([factQuery('project', lab.id)], deadline)
  expect(loads).toEqual(['Redis first', 'Postgres'])
  expect([gathered.find('project', lab.id), gathered.tier, gathered.ageMs]).toEqual([shut, 'l3', 0])
})

describe('a deadline that passes', () => {
  test('rejects its own gather and not the others that share the load', async () => {
    const hasty = createDeadlines(clock)(0)
    expect(facts.gather(queriesOf(bob, lab), hasty)).rejects.toThrow()
    database.world.set(ofLab, open)
    const patient = ask(bob, lab)
    database.statements.at(-1)?.answer()
    expect((await patient).project).toEqual(open)
  })
})

describe('a stale read', () => {
  test('holds its facts: an eviction, a change or an invalidation of everything afterwards does not make them absent', async () => {
    database.world.set(ofLab, { ...open, visibility: 'team-only' }).set(toBob, look)
    for (const remove of [
      () => change(ofLab, shut),
      () => facts.invalidate('everything'),
      // Room for two facts, which another user and project take.
      () => {
        const evicting = ask(ada, den)
        database.statements.at(-1)?.answer()
        return evicting
      },
    ]) {
      facts = createCache({ maxEntries: 2 })
      deadline = createDeadlines(clock)(120_000)
      database.world.set(ofLab, { ...open, visibility: 'team-only' })
      const known = ask(bob, lab)
      database.statements.at(-1)?.answer()
      const answered = await known
      clock.advance(60_000)
      const stale = facts.peekStale(queriesOf(bob, lab))
      await remove()
      expect(facts.peekStale(queriesOf(bob, lab))).toBeUndefined()
      expect(stale?.resource(lab, bob)).toEqual(answered)
      expect(stale?.find('project', lab.id)).toEqual({ ...open, visibility: 'team-only' })
      expect([stale?.stale, stale?.tier, stale?.ageMs]).toEqual([true, 'l1', 60_000])
    }
  })

  test('is not possible when memory lacks one of the facts', async () => {
    database.world.set(ofLab, open)
    const known = ask(bob, lab)
    database.statement(0).answer()
    await known
    expect(facts.peekStale(queriesOf(bob, lab))?.find('project', lab.id)).toEqual(open)
    expect(facts.peekStale(queriesOf(bob, lab, den))).toBeUndefined()
    expect(facts.peekStale(queriesOf(idOf('user', 3), lab))).toBeUndefined()
  })
})

describe('a renewal', () => {
  beforeEach(async () => {
    facts = createCache({ ttlMs: 60_000, renewAheadMs: 10_000 })
    database.world.set(ofLab, open)
    database.world.set(ofDen, open)
    const asked = facts.gather(queriesOf(bob, lab, den), deadline)
    database.statement(0).answer()
    await asked
  })
  const inMemory = (...refs: ResourceRef[]) => refs.map((ref) => facts.peekResource(ref, bob) !== undefined)

  test('keeps the facts in memory that were used shortly before they expire, by one load', async () => {
    clock.advance(50_000)
    expect(inMemory(lab)).toEqual([true])
    const renewing = facts.renew()
    expect(database.statement(1).wanted.sort()).toEqual([`grants:${bob}`, `project:${lab.id}`])
    database.statement(1).answer()
    await renewing
    clock.advance(10_000)
    expect(inMemory(lab, den)).toEqual([true, false])
    await facts.renew()
    expect(database.statements).toHaveLength(2)
  })

  test('loads nothing for facts that were used earlier, and not twice for one that is due', async () => {
    clock.advance(49_999)
    expect(inMemory(lab)).toEqual([true])
    await facts.renew()
    expect(database.statements).toHaveLength(1)
    clock.advance(1)
    expect([...inMemory(lab), ...inMemory(lab)]).toEqual([true, true])
    const renewing = facts.renew()
    expect(inMemory(lab)).toEqual([true])
    await facts.renew()
    database.statement(1).answer()
    await renewing
    expect(database.statements).toHaveLength(2)
  })

  test('puts no fact into memory that was invalidated while it was loaded', async () => {
    clock.advance(50_000)
    inMemory(lab)
    const renewing = facts.renew()
    database.statement(1).read()
    change(ofLab, shut)
    database.statement(1).answer()
    await renewing
    expect(inMemory(lab)).toEqual([false])
  })

  test('that fails lets the facts expire, and is not tried again', async () => {
    clock.advance(50_000)
    inMemory(lab)
    const renewing = facts.renew()
    database.statement(1).fail(new Error('gone'))
    expect(await renewing.catch((error: Error) => error.message)).toBe('gone')
    await facts.renew()
    expect([database.statements.length, ...inMemory(lab)]).toEqual([2, true])
    clock.advance(10_000)
    expect(inMemory(lab)).toEqual([false])
  })
})

describe('a prefetch', () => {
  test('loads all missing facts into memory with one statement, and nothing when none is missing', async () => {
    database.world.set(ofLab, open).set(toBob, look).set(ofWork, inLab)
    const fetching = facts.prefetch([...queriesOf(bob, lab, work), ...principalQueries(session, bob)])
    expect(database.statements).toHaveLength(1)
    database.statement(0).answer()
    await fetching
    expect(facts.peekResource(work, bob)).toEqual({ project: open, generation: inLab, grant: look })
    await facts.prefetch(queriesOf(bob, lab, work))
    expect(database.statements).toHaveLength(1)
  })

  test('is not joined by a request', async () => {
    database.world.set(ofLab, open)
    const fetching = facts.prefetch(queriesOf(bob, lab))
    const asked = ask(bob, lab)
    expect(database.statements).toHaveLength(2)
    database.statement(1).answer()
    expect((await asked).project).toEqual(open)
    database.statement(0).answer()
    await fetching
  })

  test('uses the loader for prefetches', async () => {
    const ahead = slowDatabase()
    ahead.world.set(ofLab, open)
    facts = createFactCache({
      load: loadFromStore(database, always.flags),
      prefetchLoad: loadFromStore(ahead, always.flags),
      memory: createTtlMap({ clock, ttlMs: 60_000 }),
      clock,
      ...always,
    })
    const fetching = facts.prefetch(queriesOf(bob, lab))
    ahead.statement(0).answer()
    await fetching
    expect(database.statements).toEqual([])
    expect((await ask(bob, lab)).project).toEqual(open)
  })

  test('drops the facts that were invalidated while it loaded', async () => {
    database.world.set(ofLab, open).set(toBob, look)
    const fetching = facts.prefetch(queriesOf(bob, lab, den))
    database.statement(0).read()
    change(toBob, 0)
    database.statement(0).answer()
    await fetching
    expect(facts.peekResource(lab, bob)).toBeUndefined()
    expect(facts.peekResource(den, bob)).toBeDefined()
  })

  test('sends no statement while memory is not trusted', async () => {
    facts = createFactCache({
      load: loadFromStore(database, always.flags),
      memory: createTtlMap({ clock, ttlMs: 60_000 }),
      clock,
      lease: { untilMs: Number.NEGATIVE_INFINITY },
      flags: { l1: true },
    })
    await facts.prefetch(queriesOf(bob, lab))
    expect(database.statements).toEqual([])
  })
})
