import { restrictionsId } from '../../src/access/policy/facts/mode.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'

/** The facts of a service that restricts nothing. */
export const unrestricted: readonly (readonly [FactKey, Fact[FactKind]])[] = [
  [factKey('mode', restrictionsId), { mode: 'normal' }],
  [factKey('blocked_networks', restrictionsId), { networks: [] }],
]
