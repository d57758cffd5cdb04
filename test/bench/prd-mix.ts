import { seedPassword } from '../../src/boot/seed/large-world.ts'
import { createRandom, type Random } from '../../src/kit/random.ts'
import type { Requests } from './load/send.ts'
import { checkRequest, createDraft, type Draft, type Mix, tokensOf } from './mix.ts'
import { loginPath, mePath } from './people.ts'

/** Of a thousand requests: 900 checks, 50 of one's account, 30 lists, 19 changes and one login. */
const shares = [
  ['check', 900],
  ['me', 50],
  ['list', 30],
  ['change', 19],
  ['login', 1],
] as const

type Kind = (typeof shares)[number][0]

const pickKind = (random: Random): Kind => {
  let left = random.below(1_000)
  for (const [kind, share] of shares) {
    left -= share
    if (left < 0) return kind
  }
  return 'check'
}

/** Projects that changes shut and open: by each the number of its slot. */
const slotsOf = ({ projects, people }: Mix): ReadonlyMap<string, number> => {
  const shared = projects.filter(({ visibility, owner_id }) => visibility === 'team-only' && people.has(owner_id))
  return new Map(shared.slice(0, 1_000).map(({ id }, slot) => [id, slot]))
}

const visibility = (value: string) => JSON.stringify({ visibility: value })

/** One change in five takes access to a project away or gives it back; the others order a generation or rename a project. */
const changeRequest = (mix: Mix, draft: Draft, slots: ReadonlyMap<string, number>, random: Random): number => {
  const { id, owner_id } = random.pick(mix.projects)
  const token = mix.people.get(owner_id)?.access_token
  const shared = random.chance(0.2) ? random.pick([...slots.keys()]) : undefined
  const owner = mix.projects.find((project) => project.id === shared)?.owner_id
  if (shared !== undefined && owner !== undefined) {
    const toggles = { slot: slots.get(shared) ?? 0, openingBody: visibility('team-only') }
    const request = {
      method: 'PATCH',
      path: `/api/v1/projects/${shared}`,
      body: visibility('private'),
      toggles,
    } as const
    return draft.add('access change', request, mix.people.get(owner)?.access_token)
  }
  if (token === undefined) return changeRequest(mix, draft, slots, random)
  if (random.chance(0.75)) {
    const body = JSON.stringify({ project_id: id, model: 'local/procedural', prompt: 'a lighthouse at dusk' })
    return draft.add('change', { method: 'POST', path: '/api/v1/generations', body, status: 201 }, token)
  }
  const body = JSON.stringify({ name: `Project ${random.below(1_000)}` })
  return draft.add('change', { method: 'PATCH', path: `/api/v1/projects/${id}`, body }, token)
}

const lists = [
  '/api/v1/projects?limit=20',
  '/api/v1/generations?limit=20',
  '/api/v1/authorization/accessible?type=generation&action=read&limit=20',
]

/** As many as a person sends in a measurement with its warm-up, so that few are sent twice. */
const requestsOfPerson = 70

type Shape = {
  readonly connections: number
  readonly seconds: number
  readonly perSecond?: number
  /** Whether each connection is one person. Default: any connection sends anything. */
  readonly personal?: boolean
  /** The checks alone, which a server without the other routes can answer too. */
  readonly checksOnly?: boolean
  readonly warmUpSeconds?: number
}

/**
 * The load of a working day: checks, accounts, lists, changes and logins of everybody in the world. Every check about a
 * project that a change has shut is held against the change.
 */
export const prdPlan = (mix: Mix, shape: Shape): Requests => {
  const { connections, seconds, perSecond, personal = false, checksOnly = false, warmUpSeconds = 0.2 } = shape
  const random = createRandom(17)
  const draft = createDraft(tokensOf(mix))
  const slots = checksOnly ? new Map<string, number>() : slotsOf(mix)
  const next = (userId: string | undefined): number => {
    const kind = checksOnly ? 'check' : pickKind(random)
    const question = userId === undefined ? mix.ask(random) : mix.askBy(userId, random)
    const person = mix.people.get(question.userId)
    switch (kind) {
      case 'check':
        return checkRequest(mix, draft, question, 'token', slots)
      case 'me':
        return draft.add('me', { method: 'GET', path: mePath }, person?.access_token)
      case 'list':
        return draft.add('list', { method: 'GET', path: random.pick(lists) }, person?.access_token)
      case 'change':
        return changeRequest(mix, draft, slots, random)
      case 'login': {
        const body = JSON.stringify({ email: person?.email, password: seedPassword })
        return draft.add('login', { method: 'POST', path: loginPath, body })
      }
    }
  }
  const laneOf = (userId: string | undefined, length: number) => Array.from({ length }, () => next(userId))
  const lanes = personal
    ? [...mix.people.keys()].slice(0, connections).map((userId) => laneOf(userId, requestsOfPerson))
    : [laneOf(undefined, 100_000)]
  const rest = { warmUpSeconds, ...(perSecond !== undefined && { perSecond }) }
  return draft.plan(lanes, [{ connections, seconds }], rest)
}
