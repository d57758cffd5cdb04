/** The actions on a resource. A set of actions is a number with one bit for each. */
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

/** The access matrix. access_rules is its copy for SQL, written at every start. */
export const ownerActions: ActionSet = every
/** The owner of a generation may do everything but `admin`, which applies to projects only. */
export const generationOwnerActions: ActionSet = every & ~setOf('admin')
export const publicActions: ActionSet = setOf('read', 'download')

/** Ordered: a role is above those after it. */
export const teamRoles = ['owner', 'admin', 'editor', 'contributor', 'viewer'] as const
export type TeamRole = (typeof teamRoles)[number]
export const roleActions: Readonly<Record<TeamRole, ActionSet>> = {
  owner: every,
  admin: every,
  editor: setOf('read', 'download', 'create', 'write', 'share'),
  contributor: setOf('read', 'download', 'create'),
  viewer: setOf('read', 'download'),
}

export const accessLevels = ['read', 'write', 'admin'] as const
export type AccessLevel = (typeof accessLevels)[number]
/** What a team can get out of a project at most; its members get the part of it that their role has. */
export const levelActions: Readonly<Record<AccessLevel, ActionSet>> = {
  read: setOf('read', 'download'),
  write: setOf('read', 'download', 'create', 'write', 'share'),
  admin: every,
}

export const isAbove = (role: TeamRole, other: TeamRole): boolean => teamRoles.indexOf(role) < teamRoles.indexOf(other)

export const resourceTypes = ['project', 'generation', 'media'] as const
export type ResourceType = (typeof resourceTypes)[number]
/** Those that lists name: media are listed with their generation. */
export const listedTypes = ['project', 'generation'] as const
export type ListedType = (typeof listedTypes)[number]
export type ListedRef = { readonly type: ListedType; readonly id: string }
export type ResourceRef = { readonly type: ResourceType; readonly id: string }

export const generationStatuses = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const
export type GenerationStatus = (typeof generationStatuses)[number]

/** What a generation is to its parent; an original has none. */
export const intents = ['original', 'improve', 'iterate', 'fork', 'remix'] as const
export type Intent = (typeof intents)[number]

export const visibilities = ['private', 'team-only', 'public'] as const
export type Visibility = (typeof visibilities)[number]

/** What a service may do with its key in its own name. */
export const serviceScopes = ['authorization:check', 'authorization:list', 'performance:read'] as const
/**
 * What a service may do with its key for a user, whom each request names: what that user may do, and no more. The scopes to write
 * include reading the same. No scope reaches e-mail addresses, passwords, second factors, sessions, ownership or keys.
 */
export const actingScopes = ['users:read', 'users:write', 'teams:write', 'projects:write', 'generations:write'] as const
export type ActingScope = (typeof actingScopes)[number]
export const scopes = [...serviceScopes, ...actingScopes] as const
export type Scope = (typeof scopes)[number]

export const accountStatuses = ['active', 'suspended', 'deleted'] as const
export const accountRoles = ['user', 'admin'] as const
