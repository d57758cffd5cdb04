import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { decide, layers } from '../../src/access/layers.ts'
import {
  type AccountFact,
  type Action,
  actions,
  type Facts,
  type GenerationFact,
  type ProjectFact,
  visibilities,
} from '../../src/access/model.ts'

const me = '00000000-0000-7000-8000-000000000001'
const other = '00000000-0000-7000-8000-000000000002'
const someProject = '00000000-0000-7000-8000-00000000000a'

const accounts: Record<string, AccountFact | undefined> = {
  active: { status: 'active', role: 'user', plan: 'free' },
  'active admin': { status: 'active', role: 'admin', plan: 'free' },
  suspended: { status: 'suspended', role: 'user', plan: 'free' },
  deleted: { status: 'deleted', role: 'user', plan: 'free' },
  unknown: undefined,
}

const project = (ownerId: string, visibility: ProjectFact['visibility']): ProjectFact => ({ ownerId, visibility })
const generation = (ownerId: string, projectId: string | null): GenerationFact => ({
  ownerId,
  projectId,
  status: 'queued',
})

const all = actions.join(' ')
const butAdmin = 'read download create write share delete'
const look = 'read download'

/** Thing, whose it is, and what an active account may do to it. Written out by hand, from section 3 of the rules. */
const cells: [name: string, facts: Pick<Facts, 'project' | 'generation'>, may: string][] = [
  ['nothing at all', { project: undefined, generation: undefined }, ''],
  ['my private project', { project: project(me, 'private'), generation: undefined }, all],
  ['my team-only project', { project: project(me, 'team-only'), generation: undefined }, all],
  ['my public project', { project: project(me, 'public'), generation: undefined }, all],
  ['their private project', { project: project(other, 'private'), generation: undefined }, ''],
  ['their team-only project', { project: project(other, 'team-only'), generation: undefined }, ''],
  ['their public project', { project: project(other, 'public'), generation: undefined }, look],
  ['my loose generation', { project: undefined, generation: generation(me, null) }, butAdmin],
  ['their loose generation', { project: undefined, generation: generation(other, null) }, ''],
  ...visibilities.flatMap((visibility): [string, Pick<Facts, 'project' | 'generation'>, string][] => {
    const shown = visibility === 'public' ? look : ''
    return [
      [
        `mine in my ${visibility} project`,
        { project: project(me, visibility), generation: generation(me, someProject) },
        butAdmin,
      ],
      [
        `mine in their ${visibility} project`,
        { project: project(other, visibility), generation: generation(me, someProject) },
        butAdmin,
      ],
      [
        `theirs in my ${visibility} project`,
        { project: project(me, visibility), generation: generation(other, someProject) },
        all,
      ],
      [
        `theirs in their ${visibility} project`,
        { project: project(other, visibility), generation: generation(other, someProject) },
        shown,
      ],
    ]
  }),
]

const allowedActions = (facts: Facts) => actions.filter((action) => decide(facts, action).allowed).join(' ')

describe('the matrix of rule 1 to 3', () => {
  for (const [name, thing, may] of cells) {
    for (const [standing, account] of Object.entries(accounts)) {
      test(`${standing} account, ${name}`, () => {
        const expected = standing.startsWith('active') ? may : ''
        expect(allowedActions({ userId: me, account, ...thing })).toBe(expected)
      })
    }
  }
})

describe('reasons', () => {
  const reason = (facts: Partial<Facts>, action: Action = 'read') =>
    decide({ userId: me, account: accounts['active'], project: undefined, generation: undefined, ...facts }, action)
      .reason

  test('name the rule that allowed', () => {
    expect(reason({ project: project(me, 'public') })).toBe('ownership.project_owner')
    expect(reason({ generation: generation(me, null) })).toBe('ownership.generation_owner')
    expect(reason({ project: project(other, 'public') })).toBe('visibility.public')
  })

  test('name the state of the account that denied, before any other', () => {
    expect(reason({ account: accounts['suspended'], project: project(me, 'public') })).toBe('account.suspended')
    expect(reason({ account: accounts['deleted'] })).toBe('account.deleted')
    expect(reason({ account: undefined })).toBe('account.unknown')
  })

  test('say default where no rule spoke', () => {
    expect(reason({ project: project(other, 'private') })).toBe('default.deny')
    expect(reason({ project: project(other, 'public') }, 'write')).toBe('default.deny')
  })
})

describe('the pipeline', () => {
  const facts: Facts = { userId: me, account: accounts['suspended'], project: undefined, generation: undefined }

  test('has the ten layers in the order of evaluation', () => {
    expect(layers.map(({ layer }) => layer)).toEqual([10, 4, 9, 7, 1, 2, 3, 5, 6, 8])
  })

  test('a trace has every layer, also after a deny', () => {
    const seen: number[] = []
    const traced = decide(facts, 'read', ({ layer }) => seen.push(layer))
    expect(seen).toEqual([10, 4, 9, 7, 1, 2, 3, 5, 6, 8])
    expect(traced).toEqual(decide(facts, 'read'))
  })
})

describe('for any world', () => {
  const ids = fc.constantFrom(me, other)
  const accountFact = fc.record({
    status: fc.constantFrom('active', 'suspended', 'deleted'),
    role: fc.constantFrom('user', 'admin'),
    plan: fc.constantFrom('free', 'pro', 'enterprise'),
  })
  const projectFact = fc.record({ ownerId: ids, visibility: fc.constantFrom(...visibilities) })
  const world = fc.record<Facts>({
    userId: ids,
    account: fc.option(accountFact, { nil: undefined }),
    project: fc.option(projectFact, { nil: undefined }),
    generation: fc.option(
      fc.record({ ownerId: ids, projectId: fc.constant(someProject), status: fc.constantFrom('queued', 'completed') }),
      { nil: undefined },
    ),
  })
  const action = fc.constantFrom(...actions)

  test('suspending an account never turns a deny into an allow', () => {
    fc.assert(
      fc.property(world, action, (facts, asked) => {
        const suspended = { ...facts, account: { status: 'suspended', role: 'user', plan: 'free' } as const }
        return !decide(suspended, asked).allowed
      }),
      { numRuns: 5_000 },
    )
  })

  test('whoever may do anything may read', () => {
    fc.assert(
      fc.property(world, action, (facts, asked) => !decide(facts, asked).allowed || decide(facts, 'read').allowed),
      { numRuns: 5_000 },
    )
  })

  test('the role of a platform admin opens no content', () => {
    fc.assert(
      fc.property(world, action, (facts, asked) => {
        if (facts.account === undefined) return true
        const as = (role: 'user' | 'admin') =>
          decide({ ...facts, account: { ...(facts.account as AccountFact), role } }, asked)
        return as('admin').allowed === as('user').allowed
      }),
      { numRuns: 5_000 },
    )
  })
})
