import type { Action } from '../../src/access/policy/matrix.ts'
import { isActive, may, type Resource, type World } from '../access/reference-model.ts'
import { createHistory, type History } from './history.ts'

/** The credential of a request: a user's session or a service key. */
export type Credential =
  | { readonly kind: 'session'; readonly id: string; readonly token: string; readonly userId: string }
  | { readonly kind: 'key'; readonly id: string; readonly token: string }
export type SessionCredential = Extract<Credential, { kind: 'session' }>

export type Human = { readonly id: string; readonly email: string }

/** The rows of one fixture and its valid credentials. */
export type State = {
  readonly world: World
  readonly credentials: readonly Credential[]
  readonly member: Human
  readonly teamId: string
  readonly projectId: string
  readonly generationId: string
}

/**
 * A team, a project and a generation, with an owner, a member whose access is removed and restored, a second owner of the
 * project, and a user without access. No fixture depends on another and one worker changes it at a time, so its history
 * is exact.
 */
export type Fixture = {
  readonly number: number
  readonly owner: Human
  readonly heir: Human
  readonly stranger: Human
  readonly ownerSession: SessionCredential
  readonly heirSession: SessionCredential
  readonly history: History<State>
  /** A worker is changing it. */
  isChanging: boolean
}

export const createFixture = (given: Omit<Fixture, 'history' | 'isChanging'>, state: State): Fixture => ({
  ...given,
  history: createHistory(state),
  isChanging: false,
})

/** May the user do the action on the resource, asked with this credential? */
export type Question = {
  readonly credentialFixture: Fixture
  readonly credential: Credential
  readonly resourceFixture: Fixture
  readonly userId: string
  readonly action: Action
  readonly resource: Resource
}

const isValid = ({ credentials, world }: State, credential: Credential): boolean =>
  credentials.some(({ id }) => id === credential.id) &&
  (credential.kind === 'key' || isActive(world, credential.userId))

export const isAllowed = (
  state: State,
  { userId, action, resource }: Pick<Question, 'userId' | 'action' | 'resource'>,
) => may(state.world, userId, action, resource)

const verdicts = (states: readonly (State | undefined)[], judge: (state: State) => boolean) => {
  const seen = new Set(states.map((state) => (state === undefined ? undefined : judge(state))))
  return seen.size === 1 ? [...seen][0] : undefined
}

/** The answer required of a question sent and answered at these moments; undefined where a change makes both acceptable. */
export const expected = (question: Question, sentMs: number, answeredMs: number): boolean | undefined => {
  const { credentialFixture, credential, resourceFixture } = question
  const good = verdicts(credentialFixture.history.possible(sentMs, answeredMs), (state) => isValid(state, credential))
  if (good === false) return false
  const allowed = verdicts(resourceFixture.history.possible(sentMs, answeredMs), (state) => isAllowed(state, question))
  if (allowed === false) return false
  return good && allowed
}

const actions: readonly Action[] = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']

const resourcesOf = ({ projectId, generationId }: State): Resource[] => [
  { type: 'project', id: projectId },
  { type: 'generation', id: generationId },
]

const peopleOf = ({ owner, heir, stranger }: Fixture, { member }: State): string[] =>
  [owner, member, heir, stranger].map(({ id }) => id)

/** A random element. Undefined for an empty list, although the type does not say so. */
export const pick = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)] as T

/** Every question about a fixture in a state, by every one of its credentials. */
function* questionsOf(fixture: Fixture, state: State): Generator<Question> {
  for (const credential of state.credentials) {
    const people = credential.kind === 'session' ? [credential.userId] : peopleOf(fixture, state)
    for (const userId of people) {
      for (const action of actions) {
        for (const resource of resourcesOf(state))
          yield { credentialFixture: fixture, credential, resourceFixture: fixture, userId, action, resource }
      }
    }
  }
}

/** The questions allowed before and denied after. */
export const lostPermissions = (fixture: Fixture, before: State, after: State): Question[] => {
  const isYes = (state: State, question: Question) => isValid(state, question.credential) && isAllowed(state, question)
  return [...questionsOf(fixture, before)].filter((question) => isYes(before, question) && !isYes(after, question))
}

/** States that ended up to this long ago are still asked about. */
const rememberedMs = 2_000

/** A random question about a fixture in its state now or two seconds ago. */
export const randomQuestion = (
  resourceFixture: Fixture,
  credentialFixture: Fixture = resourceFixture,
): Question | undefined => {
  const nowMs = performance.now()
  const state = pick(resourceFixture.history.possible(nowMs - rememberedMs, nowMs))
  const asking =
    credentialFixture === resourceFixture
      ? state
      : pick(credentialFixture.history.possible(nowMs - rememberedMs, nowMs))
  if (state === undefined || asking === undefined) return undefined
  const credential = pick(
    asking.credentials.filter(({ kind }) => credentialFixture === resourceFixture || kind === 'key'),
  )
  if (credential === undefined) return undefined
  const userId = credential.kind === 'session' ? credential.userId : pick(peopleOf(resourceFixture, state))
  return {
    credentialFixture,
    credential,
    resourceFixture,
    userId,
    action: pick(actions),
    resource: pick(resourcesOf(state)),
  }
}
