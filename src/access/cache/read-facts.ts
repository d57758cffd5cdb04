import type { Lookup } from '../../kit/ttl-map.ts'
import { restrictionsId } from '../policy/facts/mode.ts'
import type { FactKind } from '../policy/facts/registry.ts'
import { factIn, readResource, type Source } from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { Facts } from '../policy/rules.ts'

/** Everything that a decision about a resource and a user needs; undefined where the source lacks any of it. */
export const readFacts = (source: Source, ref: ResourceRef, userId: string): Facts | undefined => {
  const mode = source('mode', restrictionsId)
  const account = mode.kind === 'miss' ? mode : source('account', userId)
  const resource = account.kind === 'miss' ? undefined : readResource(source, ref, userId)
  if (resource === undefined) return undefined
  const { project, generation, media, grant } = resource
  return { userId, account: factIn(account), project, generation, media, grant, mode: factIn(mode) }
}

/** Looks the same fact up once if it is asked for several times in a row, each kind by itself. */
const rememberLast = (source: Source): Source => {
  const ids: { [K in FactKind]?: string } = {}
  const found: { [K in FactKind]?: Lookup<never> } = {}
  return (kind, id) => {
    const last = found[kind]
    if (last !== undefined && ids[kind] === id) return last
    const lookup = source(kind, id) as Lookup<never>
    ids[kind] = id
    found[kind] = lookup
    return lookup
  }
}

/**
 * The facts of each question, in their order; undefined where the source lacks any of one. Questions of a batch are often about
 * one user or one project, whose facts are looked up once.
 */
export const readAllFacts = (
  source: Source,
  questions: readonly { readonly userId: string; readonly resource: ResourceRef }[],
): Facts[] | undefined => {
  const remembering = rememberLast(source)
  const all: Facts[] = []
  for (const { userId, resource } of questions) {
    const facts = readFacts(remembering, resource, userId)
    if (facts === undefined) return undefined
    all.push(facts)
  }
  return all
}
