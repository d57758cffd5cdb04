import type { Action } from '../../src/access/policy/matrix.ts'
import { isActive, may, type Thing, type World } from '../access/reference-model.ts'
import { createHistory, type History } from './history.ts'

/** What a caller presents, and whose it is. */
export type Credential =
  | { readonly kind: 'session'; readonly id: string; readonly token: string; readonly userId: string }
  | { readonly kind: 'key'; readonly id: string; readonly token: string }
export type SessionCredential = Extract<Credential, { kind: 'session' }>

export type Human = { readonly id: string; readonly email: string }

/** The tables about one scene, and what is good for asking about it. */
export type State = {
  readonly world: World
  readonly credentials: readonly Credential[]
  readonly member: Human
  readonly teamId: string
  readonly projectId: string
  readonly generationId: string
}

/**
 * A team with a project and a generation in it: its owner, a member who gains and loses, an heir to the project, a
 * stranger. Nothing in it depends on another scene, and it is changed by one worker at a time, so its history is exact.
 */
export type Scene = {
  readonly number: number
  readonly owner: Human
  readonly heir: Human
  readonly stranger: Human
  readonly ownerSession: SessionCredential
  readonly heirSession: SessionCredential
  readonly history: History<State>
  /** Taken by somebody who changes it. */
  taken: boolean
}

export const createScene = (given: Omit<Scene, 'history' | 'taken'>, state: State): Scene => ({
  ...given,
  history: createHistory(state),
  taken: false,
})

/** May the holder of a credential do this to that, or, where a service asks, may this person? */
export type Question = {
  readonly asker: Scene
  readonly credential: Credential
  readonly about: Scene
  readonly userId: string
  readonly action: Action
  readonly thing: Thing
}

const isGood = ({ credentials, world }: State, credential: Credential): boolean =>
  credentials.some(({ id }) => id === credential.id) &&
  (credential.kind === 'key' || isActive(world, credential.userId))

export const isAllowed = (state: State, { userId, action, thing }: Pick<Question, 'userId' | 'action' | 'thing'>) =>
  may(state.world, userId, action, thing)

const verdicts = (states: readonly (State | undefined)[], judge: (state: State) => boolean) => {
  const seen = new Set(states.map((state) => (state === undefined ? undefined : judge(state))))
  return seen.size === 1 ? [...seen][0] : undefined
}

/** What the answer has to be of a question that was asked and answered at these moments; undefined where it may be either. */
export const expected = (question: Question, sentMs: number, answeredMs: number): boolean | undefined => {
  const { asker, credential, about } = question
  const good = verdicts(asker.history.possible(sentMs, answeredMs), (state) => isGood(state, credential))
  if (good === false) return false
  const allowed = verdicts(about.history.possible(sentMs, answeredMs), (state) => isAllowed(state, question))
  if (allowed === false) return false
  return good && allowed
}

const actions: readonly Action[] = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']

const thingsOf = ({ projectId, generationId }: State): Thing[] => [
  { type: 'project', id: projectId },
  { type: 'generation', id: generationId },
]

const peopleOf = ({ owner, heir, stranger }: Scene, { member }: State): string[] =>
  [owner, member, heir, stranger].map(({ id }) => id)

/** Undefined where there is nothing to pick from, whatever the types say. */
export const pick = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)] as T

/** Everything that can be asked of a scene in a state, by those in it. */
function* questionsOf(scene: Scene, state: State): Generator<Question> {
  for (const credential of state.credentials) {
    const people = credential.kind === 'session' ? [credential.userId] : peopleOf(scene, state)
    for (const userId of people) {
      for (const action of actions) {
        for (const thing of thingsOf(state)) yield { asker: scene, credential, about: scene, userId, action, thing }
      }
    }
  }
}

/** What is allowed before and not after. */
export const lost = (scene: Scene, before: State, after: State): Question[] => {
  const isYes = (state: State, question: Question) => isGood(state, question.credential) && isAllowed(state, question)
  return [...questionsOf(scene, before)].filter((question) => isYes(before, question) && !isYes(after, question))
}

/** How long ago something may have ended that is still asked about. */
const rememberedMs = 2_000

/** A question somebody might ask about a scene at random, about what is there or was there a moment ago. */
export const randomQuestion = (about: Scene, asker: Scene = about): Question | undefined => {
  const nowMs = performance.now()
  const state = pick(about.history.possible(nowMs - rememberedMs, nowMs))
  const asking = asker === about ? state : pick(asker.history.possible(nowMs - rememberedMs, nowMs))
  if (state === undefined || asking === undefined) return undefined
  const credential = pick(asking.credentials.filter(({ kind }) => asker === about || kind === 'key'))
  if (credential === undefined) return undefined
  const userId = credential.kind === 'session' ? credential.userId : pick(peopleOf(about, state))
  return { asker, credential, about, userId, action: pick(actions), thing: pick(thingsOf(state)) }
}
