import type { AuthzenAlias } from '../../config.ts'
import type { ResourceRef } from '../policy/matrix.ts'

type ResourceAlias = { readonly id: string; readonly ref: ResourceRef }

/**
 * The ids and types that AuthZEN requests may use beside ours. Configured once, so a lookup costs no statement and needs no
 * invalidation. An alias gives no access: it is decided like the id that it stands for.
 */
export const createAliases = (entries: readonly AuthzenAlias[]) => {
  const users = new Map<string, string>()
  const resources = new Map<string, Map<string, ResourceRef>>()
  /** By type and target. */
  const names = new Map<string, string>()
  for (const { type, id, target } of entries) {
    names.set(`${type} ${target.id}`, id)
    if (target.type === 'user') {
      users.set(id, target.id)
      continue
    }
    const ofType = resources.get(type) ?? new Map<string, ResourceRef>()
    resources.set(type, ofType.set(id, { type: target.type, id: target.id }))
  }
  return {
    findUser: (id: string): string | undefined => users.get(id),
    findResource: (type: string, id: string): ResourceRef | undefined => resources.get(type)?.get(id),
    /** Whether resources of this type have aliases. */
    hasType: (type: string): boolean => resources.has(type),
    /** All resources of a type that have an alias, by alias. */
    listResources: (type: string): ResourceAlias[] =>
      [...(resources.get(type) ?? [])]
        .map(([id, ref]) => ({ id, ref }))
        .sort((one, other) => (one.id < other.id ? -1 : 1)),
    /** The alias of one of our ids within a type, else the id itself. */
    nameOf: (type: string, id: string): string => names.get(`${type} ${id}`) ?? id,
  }
}

export type Aliases = ReturnType<typeof createAliases>
