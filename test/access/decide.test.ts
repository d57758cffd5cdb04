import { describe, expect, test } from 'bun:test'
import { decide, layers } from '../../src/access/policy/decide.ts'
import type { AccountFact } from '../../src/access/policy/facts/account.ts'
import type { GenerationFact } from '../../src/access/policy/facts/generation.ts'
import type { ProjectFact } from '../../src/access/policy/facts/project.ts'
import { finding, noCircumstances } from '../../src/access/policy/findings.ts'
import {
  type Action,
  accessLevels,
  actionBit,
  actions,
  isAbove,
  setOf,
  teamRoles,
  visibilities,
} from '../../src/access/policy/matrix.ts'
import { circumstancesIn, modes } from '../../src/access/policy/modes.ts'
import type { Facts } from '../../src/access/policy/rules.ts'
import { matrix } from './matrix.ts'
import { idOf } from './random.ts'
import { may } from './reference-model.ts'
import { factsIn } from './world.ts'

const me = idOf('user', 1)
const other = idOf('user', 2)

const active: AccountFact = { status: 'active', role: 'user', plan: 'free', limits: null }

const project = (ownerId: string, rest: Partial<ProjectFact> = {}): ProjectFact => ({
  ownerId,
  visibility: 'private',
  allowDerivatives: true,
  ...rest,
})
const generation = (ownerId: string, projectId: string | null = idOf('project', 1)): GenerationFact => ({
  ownerId,
  projectId,
  status: 'queued',
})

const facts = (given: Partial<Facts> = {}): Facts => ({
  userId: me,
  account: active,
  project: undefined,
  generation: undefined,
  grant: undefined,
  ...given,
})

describe('the matrix of rules 1 to 3', () => {
  const { world, cells } = matrix()

  test('covers every class: resources × relations × visibilities × accounts', () => {
    expect(cells).toHaveLength(5 * (4 + 27 * 3 * 3))
  })

  for (const { name, userId, resource, may: expected } of cells) {
    test(name, () => {
      const asked = factsIn(world, userId, resource)
      expect(actions.filter((action) => decide(asked, action).allowed).join(' ')).toBe(expected)
      // Every cell names a user that the world contains or that is absent on purpose.
      expect(actions.filter((action) => decide({ ...asked, account: undefined }, action).allowed)).toEqual([])
    })
  }

  test('equals the reference model', () => {
    for (const { name, userId, resource, may: expected } of cells) {
      expect([name, actions.filter((action) => may(world, userId, action, resource)).join(' ')]).toEqual([
        name,
        expected,
      ])
    }
  })
})

describe('the reason of a decision', () => {
  const reason = (given: Partial<Facts>, action: Action = 'read') => decide(facts(given), action).reason

  test('names the rule that allowed', () => {
    expect(reason({ project: project(me, { visibility: 'public' }), grant: setOf('read') })).toBe(
      'ownership.project_owner',
    )
    expect(reason({ generation: generation(me, null) })).toBe('ownership.generation_owner')
    expect(reason({ project: project(other, { visibility: 'public' }), grant: setOf('read') })).toBe('team.granted')
    expect(reason({ project: project(other, { visibility: 'public' }) })).toBe('visibility.public')
  })

  test('names the state of the account first when that denies', () => {
    const mine = { project: project(me, { visibility: 'public' }) }
    expect(reason({ account: { ...active, status: 'suspended' }, ...mine })).toBe('account.suspended')
    expect(reason({ account: { ...active, status: 'deleted' }, ...mine })).toBe('account.deleted')
    expect(reason({ account: undefined, ...mine })).toBe('account.unknown')
  })

  test('is default when no rule applied', () => {
    expect(reason({ project: project(other) })).toBe('default.deny')
    expect(reason({ project: project(other, { visibility: 'public' }) }, 'write')).toBe('default.deny')
  })

  test('names the lineage when a child may not be created', () => {
    const seen = { project: project(other, { visibility: 'public', allowDerivatives: false }), deriving: true }
    expect(reason({ ...seen, generation: generation(other) })).toBe('lineage.derivatives_not_allowed')
  })
})

describe('lineage', () => {
  const derives = (given: Partial<Facts>) => decide(facts({ ...given, deriving: true }), 'read').allowed
  const closed = { allowDerivatives: false }

  test('allows a user who may read a generation to derive from it if its project allows derivatives', () => {
    expect(derives({ generation: generation(other), project: project(other, { visibility: 'public' }) })).toBeTrue()
    expect(derives({ generation: generation(other), project: project(other) })).toBeFalse()
  })

  test('allows only the owner of the generation if the project forbids derivatives, not the owner of the project', () => {
    expect(derives({ generation: generation(me), project: project(other, closed) })).toBeTrue()
    expect(derives({ generation: generation(me, null) })).toBeTrue()
    expect(derives({ generation: generation(other), project: project(me, closed) })).toBeFalse()
    expect(
      derives({ generation: generation(other), project: project(other, { ...closed, visibility: 'public' }) }),
    ).toBeFalse()
  })

  test('abstains when no child is created', () => {
    const seen = { generation: generation(other), project: project(other, { ...closed, visibility: 'public' }) }
    expect(decide(facts(seen), 'read').allowed).toBeTrue()
    expect(decide(facts({ ...seen, deriving: false }), 'read').allowed).toBeTrue()
  })
})

describe('media', () => {
  const completed = (ownerId: string): GenerationFact => ({ ...generation(ownerId), status: 'completed' })
  const made = (of: Partial<Facts>) => ({
    media: { ownerId: me, generationId: idOf('generation', 1), sha256: 'ab'.repeat(32), contentType: 'image/png' },
    ...of,
  })
  const mayDo = (given: Partial<Facts>) => actions.filter((action) => decide(facts(given), action).allowed).join(' ')

  test('follow the owner of their generation, not their own owner column', () => {
    const shown = { generation: completed(other), project: project(other, { visibility: 'public' }) }
    expect(mayDo(made(shown))).toBe(mayDo(shown))
    expect(mayDo(made(shown))).toBe('read download')
    expect(mayDo(made({ generation: completed(other), project: project(other) }))).toBe('')
    expect(mayDo(made({ generation: completed(me) }))).toBe(mayDo({ generation: completed(me) }))
  })

  test('are not visible before their generation is completed, nor after it is deleted', () => {
    for (const status of ['queued', 'processing', 'failed', 'cancelled'] as const) {
      const early = made({ generation: { ...generation(me), status }, project: project(me) })
      expect(mayDo(early)).toBe('')
      expect(decide(facts(early), 'read').reason).toBe('media.generation_not_completed')
    }
    expect(mayDo(made({}))).toBe('')
  })

  test('that were uploaded belong to the uploader alone', () => {
    const brought = (ownerId: string) =>
      made({ media: { ownerId, generationId: null, sha256: 'ab'.repeat(32), contentType: 'image/png' } })
    expect(mayDo(brought(me))).toBe('read download create write share delete')
    expect(decide(facts(brought(me)), 'read').reason).toBe('ownership.media_owner')
    expect(mayDo(brought(other))).toBe('')
  })
})

describe('the pipeline', () => {
  const suspended = facts({ account: { ...active, status: 'suspended' }, project: project(me) })

  type Line = [layer: number, name: string, verdict: string, reason: string]

  const trace = (asked: Facts, action: Action) => {
    const lines: Line[] = []
    const decision = decide(asked, action, noCircumstances, ({ layer, name }, { verdict, reason }) =>
      lines.push([layer, name, verdict, reason]),
    )
    return { decision, lines }
  }

  /** The findings of layers 4, 1, 2, 3 and 5, in this order; those of the others are constant. */
  const findings = (asked: Facts, action: Action) =>
    [4, 1, 2, 3, 5].map((number) => {
      const [, , verdict, reason] = trace(asked, action).lines.find(([layer]) => layer === number) as Line
      return `${verdict} ${reason}`
    })

  test('has the ten layers in the order of evaluation, and a trace of all ten after a deny too', () => {
    const { decision, lines } = trace(suspended, 'read')
    expect(lines).toEqual([
      [10, 'rate_and_anomaly', 'abstain', 'anomaly.none'],
      [4, 'security_context', 'deny', 'account.suspended'],
      [9, 'emergency', 'abstain', 'emergency.normal'],
      [7, 'performance', 'abstain', 'facts.at_hand'],
      [1, 'direct_ownership', 'allow', 'ownership.project_owner'],
      [2, 'team_access', 'abstain', 'team.none'],
      [3, 'project_visibility', 'abstain', 'visibility.not_public'],
      [5, 'lineage', 'abstain', 'lineage.nothing_derived'],
      [6, 'media', 'abstain', 'media.not_asked'],
      [8, 'audit', 'abstain', 'audit.after_decision'],
    ])
    expect(decision).toEqual(decide(suspended, 'read'))
    expect(decision).toEqual({ allowed: false, reason: 'account.suspended' })
    expect(layers.map(({ layer }) => layer)).toEqual(lines.map(([layer]) => layer))
  })

  test('gives the first of two denies as the reason, with and without a trace', () => {
    const twice = facts({
      account: { ...active, status: 'suspended' },
      generation: generation(other),
      project: project(other, { visibility: 'public', allowDerivatives: false }),
      deriving: true,
    })
    expect(decide(twice, 'read').reason).toBe('account.suspended')
    expect(trace(twice, 'read').decision.reason).toBe('account.suspended')
  })

  test('gives the first deny of a circumstance as the reason, before the account and what the facts say', () => {
    const mine = facts({ project: project(me) })
    const anomaly = finding('deny', 'anomaly.blocked')
    const context = finding('deny', 'context.travel_impossible')
    const emergency = finding('deny', 'emergency.lockdown')
    expect(decide(mine, 'read', { anomaly, context, emergency }).reason).toBe('anomaly.blocked')
    expect(decide(mine, 'read', { context, emergency }).reason).toBe('context.travel_impossible')
    expect(decide(mine, 'read', { emergency })).toEqual({ allowed: false, reason: 'emergency.lockdown' })
    expect(decide(suspended, 'read', { context }).reason).toBe('account.suspended')
  })

  test('allows nothing more by a circumstance that abstains', () => {
    const abstain = finding('abstain', 'context.same')
    const every = { anomaly: abstain, context: abstain, emergency: abstain }
    expect(decide(facts({ project: project(other) }), 'read', every).allowed).toBe(false)
    expect(decide(facts({ project: project(me) }), 'read', every).allowed).toBe(true)
    expect(decide(suspended, 'read', every).allowed).toBe(false)
  })

  test('in each mode denies in a lockdown alone', () => {
    const mine = facts({ project: project(me) })
    const allowed = modes.filter((mode) => decide(mine, 'write', circumstancesIn(mode)).allowed)
    expect(allowed).toEqual(['normal', 'no-register', 'read-only'])
    const context = finding('abstain', 'context.same')
    expect(decide(mine, 'write', circumstancesIn('lockdown', { context })).reason).toBe('emergency.lockdown')
  })

  test('reports a finding from every layer', () => {
    const shown = project(other, { visibility: 'public' })
    expect(findings(facts({ project: shown, grant: setOf('read') }), 'read')).toEqual([
      'abstain account.active',
      'abstain ownership.none',
      'allow team.granted',
      'allow visibility.public',
      'abstain lineage.nothing_derived',
    ])
    expect(findings(facts({ project: shown, grant: setOf('read') }), 'write')).toEqual([
      'abstain account.active',
      'abstain ownership.none',
      'abstain team.action_not_included',
      'abstain visibility.action_not_included',
      'abstain lineage.nothing_derived',
    ])
    expect(findings(facts({ project: project(me, { visibility: 'public' }), grant: setOf('read') }), 'read')).toEqual([
      'abstain account.active',
      'allow ownership.project_owner',
      'abstain team.none',
      'allow visibility.public',
      'abstain lineage.nothing_derived',
    ])
    expect(findings(facts({ generation: generation(other), project: shown, deriving: true }), 'read')).toEqual([
      'abstain account.active',
      'abstain ownership.none',
      'abstain team.none',
      'allow visibility.public',
      'abstain lineage.derivable',
    ])
  })

  test('decides an owned generation by ownership: team access and visibility abstain', () => {
    const owned = facts({
      generation: generation(me),
      project: project(other, { visibility: 'public' }),
      grant: setOf(...actions),
    })
    expect(findings(owned, 'read')).toEqual([
      'abstain account.active',
      'allow ownership.generation_owner',
      'abstain team.none',
      'abstain visibility.not_public',
      'abstain lineage.nothing_derived',
    ])
    expect(findings(owned, 'admin')[1]).toBe('abstain ownership.action_not_included')
    expect(decide(owned, 'admin')).toEqual({ allowed: false, reason: 'default.deny' })
  })

  test('gives a resource that is not visible the findings of one that never existed', () => {
    const never = findings(facts(), 'read')
    for (const hidden of [
      facts({ project: project(other) }),
      facts({ project: project(other), grant: setOf(...actions) }),
      facts({ project: project(other, { visibility: 'team-only' }), grant: 0 }),
      facts({ generation: generation(other, null) }),
      facts({ generation: generation(other), project: project(other), grant: setOf(...actions) }),
    ]) {
      expect(findings(hidden, 'read')).toEqual(never)
      expect(decide(hidden, 'read')).toEqual(decide(facts(), 'read'))
    }
  })
})

test('actions have the names of the API and the bits that the database uses', () => {
  expect(accessLevels).toEqual(['read', 'write', 'admin'])
  expect(visibilities).toEqual(['private', 'team-only', 'public'])
  expect(actionBit).toEqual({ read: 1, download: 2, create: 4, write: 8, share: 16, delete: 32, admin: 64 })
})

test('each team role outranks those after it', () => {
  expect(teamRoles).toEqual(['owner', 'admin', 'editor', 'contributor', 'viewer'])
  for (const [place, role] of teamRoles.entries()) {
    for (const [otherPlace, otherRole] of teamRoles.entries()) {
      expect(isAbove(role, otherRole)).toBe(place < otherPlace)
    }
  }
})
