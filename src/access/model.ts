/** What may be done to a thing. A set of actions is a number, one bit each. */
export const actions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin'] as const
export type Action = (typeof actions)[number]

export type ActionSet = number

export const actionBit = Object.freeze(
  Object.fromEntries(actions.map((action, index) => [action, 1 << index])),
) as Readonly<Record<Action, ActionSet>>

export const setOf = (...members: readonly Action[]): ActionSet =>
  members.reduce((set, action) => set | actionBit[action], 0)

export const every: ActionSet = setOf(...actions)

export const has = (set: ActionSet, action: Action): boolean => (set & actionBit[action]) !== 0

export const resourceTypes = ['project', 'generation'] as const
export type ResourceType = (typeof resourceTypes)[number]
export type ResourceRef = { readonly type: ResourceType; readonly id: string }

export const visibilities = ['private', 'team-only', 'public'] as const
export type Visibility = (typeof visibilities)[number]

/** What a decision needs to know, and nothing else of the rows it comes from. */
export type SessionFact = { readonly userId: string; readonly ended: boolean; readonly expiresAtMs: number }
export type AccountFact = {
  readonly status: 'active' | 'suspended' | 'deleted'
  readonly role: 'user' | 'admin'
  readonly plan: 'free' | 'pro' | 'enterprise'
}
export type ProjectFact = { readonly ownerId: string; readonly visibility: Visibility }
export type GenerationFact = {
  readonly ownerId: string
  readonly projectId: string | null
  readonly status: 'queued' | 'processing' | 'completed' | 'failed' | 'cancelled'
}

export type Fact = {
  session: SessionFact
  account: AccountFact
  project: ProjectFact
  generation: GenerationFact
}
export type FactKind = keyof Fact

/** Names one fact. Ids are UUIDs in lower case, of one length, so no two facts share a name. */
export type FactKey = `${FactKind}:${string}`
export const factKey = (kind: FactKind, id: string): FactKey => `${kind}:${id}`

/**
 * The facts of one question. A thing that does not exist has neither `project` nor `generation`, which makes it a thing
 * nobody has anything to do with: no rule needs to know the difference, so no answer can show it.
 */
export type Facts = {
  readonly userId: string
  readonly account: AccountFact | undefined
  readonly project: ProjectFact | undefined
  readonly generation: GenerationFact | undefined
}
