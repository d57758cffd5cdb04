import { type Mode, stricterOf } from '../access/policy/modes.ts'
import type { OwnMode } from '../access/policy/restrictions.ts'
import type { Breakers, Dependency } from '../platform/breaker.ts'

export type ModeChange = { readonly before: Mode; readonly after: Mode; readonly cause: string }

/**
 * The mode of this instance alone, for circuit breakers: each cause asks for a mode, and the strictest applies, beside
 * the mode that operators set. It is in force at once, needs no database, and ends with the process. `onChange` learns of it
 * afterwards, to record it.
 */
export const createOwnMode = (onChange: (change: ModeChange) => void = () => {}) => {
  const wanted = new Map<string, Mode>()
  let current: Mode = 'normal'
  const apply = (cause: string): void => {
    const before = current
    current = [...wanted.values()].reduce(stricterOf, 'normal')
    if (current !== before) onChange({ before, after: current, cause })
  }
  return {
    get current() {
      return current
    },
    set: (cause: string, mode: Mode): void => {
      wanted.set(cause, mode)
      apply(cause)
    },
    lift: (cause: string): void => {
      if (wanted.delete(cause)) apply(cause)
    },
  } satisfies OwnMode & Record<string, unknown>
}

export type SettableOwnMode = ReturnType<typeof createOwnMode>

/** What an open breaker of a dependency asks for. Other dependencies have no effect on who may do what. */
const modesWhileOpen: Partial<Readonly<Record<Dependency, Mode>>> = { postgres: 'read-only' }

/**
 * Lets the breakers of this instance set its own mode: while that of Postgres is open nothing can be stored, so changes are refused
 * before anything is done for them, and what memory knows is still read.
 */
export const followBreakers = (ownMode: SettableOwnMode, breakers: Pick<Breakers, 'onChange'>): void =>
  breakers.onChange(({ name, dependency, state }) => {
    const mode = modesWhileOpen[dependency]
    if (mode === undefined) return
    if (state === 'open') ownMode.set(name, mode)
    else ownMode.lift(name)
  })
