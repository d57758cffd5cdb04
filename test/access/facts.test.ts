import { beforeEach, describe, expect, test } from 'bun:test'
import { createFactCache, type FactCache } from '../../src/access/facts.ts'
import { type Fact, type FactKey, type FactKind, factKey, type ProjectFact } from '../../src/access/model.ts'
import type { LoadedFacts } from '../../src/access/store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadline, type Deadline } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'

const user = '00000000-0000-7000-8000-000000000001'
const session = '00000000-0000-7000-8000-000000000002'
const project = '00000000-0000-7000-8000-00000000000a'
const generation = '00000000-0000-7000-8000-00000000000b'

const open: ProjectFact = { ownerId: user, visibility: 'public' }
const shut: ProjectFact = { ownerId: user, visibility: 'private' }

/** A database whose statements are answered when the test says so, with what the world is when it says so. */
const slowDatabase = () => {
  const world = new Map<FactKey, Fact[FactKind]>()
  const statements: { wanted: string[]; read: () => void; answer: () => void; fail: (error: Error) => void }[] = []
  const load = (wanted: readonly { kind: FactKind; id: string }[]) => {
    const { promise, resolve, reject } = Promise.withResolvers<LoadedFacts>()
    const names = wanted.map(({ kind, id }) => factKey(kind, id))
    let snapshot: Map<FactKey, Fact[FactKind] | null> | undefined
    const read = () => {
      snapshot = new Map(names.map((name) => [name, world.get(name) ?? null]))
      for (const name of names) {
        const fact = world.get(name)
        if (fact !== undefined && 'projectId' in fact && fact.projectId !== null) {
          const key = factKey('project', fact.projectId)
          const parent = world.get(key)
          if (parent !== undefined) snapshot.set(key, parent)
        }
      }
    }
    statements.push({
      wanted: names,
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
  return { world, statements, statement, load }
}

/** Lets everything that can go on without the database go on. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

let database: ReturnType<typeof slowDatabase>
let facts: FactCache
let deadline: Deadline

beforeEach(() => {
  const clock = manualClock()
  database = slowDatabase()
  facts = createFactCache({ store: database, memory: createTtlMap({ clock, ttlMs: 60_000 }) })
  deadline = createDeadline(clock, 5_000)
})

const wantProject = { resources: [{ type: 'project', id: project }] } as const
const wantGeneration = { resources: [{ type: 'generation', id: generation }] } as const

const visibilityAfter = async (
  gathered: ReturnType<FactCache['gather']>,
  ref: { type: 'project' | 'generation'; id: string },
) => (await gathered).resource(ref).project?.visibility

describe('one statement', () => {
  test('a thousand concurrent misses on one fact make one', async () => {
    database.world.set(factKey('project', project), open)
    const asked = Array.from({ length: 1_000 }, () => facts.gather(wantProject, deadline))
    expect(database.statements).toHaveLength(1)
    database.statement(0).answer()
    for (const answer of await Promise.all(asked))
      expect(answer.resource(wantProject.resources[0]).project).toEqual(open)
    expect(database.statements).toHaveLength(1)
  })

  test('session, account and thing that are all unknown are asked for together', async () => {
    const gathered = facts.gather({ session: { id: session, userId: user }, ...wantGeneration }, deadline)
    expect(database.statement(0).wanted.sort()).toEqual(
      [factKey('account', user), factKey('generation', generation), factKey('session', session)].sort(),
    )
    database.statement(0).answer()
    await gathered
    expect(database.statements).toHaveLength(1)
  })

  test('what does not exist is remembered as absent and not asked for again', async () => {
    const first = facts.gather(wantProject, deadline)
    database.statement(0).answer()
    expect((await first).resource(wantProject.resources[0])).toEqual({ project: undefined, generation: undefined })
    expect((await facts.gather(wantProject, deadline)).tier).toBe('l1')
    expect(database.statements).toHaveLength(1)
  })

  test('a failed load is forgotten, and the next question asks again', async () => {
    const failed = facts.gather(wantProject, deadline)
    database.statement(0).fail(new Error('gone'))
    expect(failed).rejects.toThrow('gone')
    await settle()
    const second = facts.gather(wantProject, deadline)
    database.statement(1).answer()
    await second
  })
})

describe('a change is felt', () => {
  test('when it comes between two reads', async () => {
    database.world.set(factKey('project', project), open)
    const before = facts.gather(wantProject, deadline)
    database.statement(0).answer()
    expect(await visibilityAfter(before, wantProject.resources[0])).toBe('public')
    database.world.set(factKey('project', project), shut)
    facts.invalidate([factKey('project', project)])
    const after = facts.gather(wantProject, deadline)
    database.statement(1).answer()
    expect(await visibilityAfter(after, wantProject.resources[0])).toBe('private')
  })

  test('when it comes between the read of Postgres and the fill: the old answer is neither given nor kept', async () => {
    database.world.set(factKey('project', project), open)
    const overtaken = facts.gather(wantProject, deadline)
    database.statement(0).read()
    database.world.set(factKey('project', project), shut)
    facts.invalidate([factKey('project', project)])
    database.statement(0).answer()
    await settle()
    database.statement(1).answer()
    expect(await visibilityAfter(overtaken, wantProject.resources[0])).toBe('private')
    expect(facts.peekResource(wantProject.resources[0])?.project).toEqual(shut)
  })

  test('by whoever asks after it, although a load from before it is still under way', async () => {
    database.world.set(factKey('project', project), open)
    const early = facts.gather(wantProject, deadline)
    database.statement(0).read()
    database.world.set(factKey('project', project), shut)
    facts.invalidate([factKey('project', project)])
    const late = facts.gather(wantProject, deadline)
    expect(database.statements).toHaveLength(2)
    database.statement(1).answer()
    expect(await visibilityAfter(late, wantProject.resources[0])).toBe('private')
    database.statement(0).answer()
    await settle()
    expect(await visibilityAfter(early, wantProject.resources[0])).toBe('private')
    expect(facts.peekResource(wantProject.resources[0])?.project).toEqual(shut)
  })

  test('also when the old project travels along with a generation that did not change', async () => {
    database.world.set(factKey('project', project), open)
    database.world.set(factKey('generation', generation), { ownerId: user, projectId: project, status: 'queued' })
    const early = facts.gather(wantGeneration, deadline)
    database.statement(0).read()
    database.world.set(factKey('project', project), shut)
    facts.invalidate([factKey('project', project)])
    const late = facts.gather(wantGeneration, deadline)
    database.statement(1).answer()
    expect(await visibilityAfter(late, wantGeneration.resources[0])).toBe('private')
    database.statement(0).answer()
    await settle()
    expect(await visibilityAfter(early, wantGeneration.resources[0])).toBe('private')
    expect(facts.peekResource(wantGeneration.resources[0])?.project).toEqual(shut)
  })

  test('when it comes while the project of a remembered generation is fetched', async () => {
    database.world.set(factKey('generation', generation), { ownerId: user, projectId: project, status: 'queued' })
    const first = facts.gather(wantGeneration, deadline)
    database.statement(0).answer()
    await settle()
    // The generation is known, its project is not: only that is fetched.
    database.world.set(factKey('project', project), open)
    expect(database.statement(1).wanted).toEqual([factKey('project', project)])
    database.statement(1).read()
    database.world.set(factKey('generation', generation), { ownerId: user, projectId: null, status: 'queued' })
    facts.invalidate([factKey('generation', generation)])
    database.statement(1).answer()
    await settle()
    database.statement(2).answer()
    expect((await first).resource(wantGeneration.resources[0])).toEqual({
      project: undefined,
      generation: { ownerId: user, projectId: null, status: 'queued' },
    })
  })
})

describe('a deadline that passes', () => {
  test('ends the wait of the one and not of the others', async () => {
    const clock = manualClock()
    const hasty = createDeadline(clock, 0)
    expect(facts.gather(wantProject, hasty)).rejects.toThrow()
    database.world.set(factKey('project', project), open)
    const patient = facts.gather(wantProject, deadline)
    database.statements.at(-1)?.answer()
    expect(await visibilityAfter(patient, wantProject.resources[0])).toBe('public')
  })
})
