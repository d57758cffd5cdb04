import { CircuitState, circuitBreaker, handleWhen, type IBreaker } from 'cockatiel'
import type { Clock } from '../kit/clock.ts'
import type { Log } from './log.ts'

/** What this program depends on. Each has one policy, and one breaker or, as the providers of models, several. */
export const dependencies = ['postgres', 'redis', 'provider', 'storage', 'mail', 'siem', 'breached_passwords'] as const
export type Dependency = (typeof dependencies)[number]

/**
 * `automatic`: opens after failures, and closes after a probe that succeeds. `closed`: every call is sent, failures or not.
 * `open`: no call is sent.
 */
export const breakerModes = ['automatic', 'closed', 'open'] as const
export type BreakerMode = (typeof breakerModes)[number]

export type BreakerPolicy = {
  readonly mode: BreakerMode
  /** Consecutive failures that open a breaker. */
  readonly failures: number
  /** How long after it opened, or after a probe failed, one call is sent as a probe. */
  readonly probeAfterMs: number
}

export type BreakerPolicies = Readonly<Record<Dependency, BreakerPolicy>>

const automatic = (failures: number, probeAfterMs: number): BreakerPolicy => ({
  mode: 'automatic',
  failures,
  probeAfterMs,
})

/** The breaker of Postgres counts findings of its watch, not statements; see `createPostgresWatch`. */
export const defaultPolicies: BreakerPolicies = {
  postgres: automatic(1, 500),
  redis: automatic(5, 1_000),
  provider: automatic(5, 30_000),
  storage: automatic(5, 5_000),
  mail: automatic(5, 30_000),
  siem: automatic(5, 5_000),
  breached_passwords: automatic(5, 30_000),
}

/** The reason of a breaker that an operator holds open. */
export const heldOpen = 'held_open'

/** `half_open`: a probe is under way, and nothing else is sent. */
export const breakerStates = ['closed', 'half_open', 'open'] as const
export type BreakerState = (typeof breakerStates)[number]

/** A call was not sent, because the breaker is open. */
export class BreakerOpen extends Error {
  override readonly name = 'BreakerOpen'
  constructor(breaker: string) {
    super(`the breaker "${breaker}" is open`)
  }
}

/** A breaker opened or closed. */
export type BreakerChange = {
  readonly name: string
  readonly dependency: Dependency
  readonly state: 'open' | 'closed'
  /** Wall clock. */
  readonly atMs: number
  /** Why it opened: the code or the name of an error, which holds no secret. */
  readonly reason: string | undefined
}

/**
 * Stops calls to a dependency that fails, so that no request waits for it.
 *
 * Guarantee: while it is open nothing is sent but one probe at a time, each `probeAfterMs` after it opened or the last
 * probe failed, by the monotonic clock. A probe that succeeds closes it.
 */
export type Breaker = {
  readonly name: string
  readonly dependency: Dependency
  readonly state: BreakerState
  /** Whether a call would be sent now. Counts one that would not. */
  allows(): boolean
  /** Sends the call, and counts how it ends. Rejects with `BreakerOpen` where it may not be sent. */
  execute<T>(call: () => Promise<T>): Promise<T>
  /** Opens it until `renew`: calls cannot be sent at all, as without a connection. */
  trip(error: unknown): void
  /** Closes it, because calls go to another place from now on. Those under way are not counted any more. */
  renew(): void
  /** When it last opened or closed, by the wall clock; undefined: never. */
  readonly changedAtMs: number | undefined
  /** Why it last opened; see `BreakerChange`. */
  readonly reason: string | undefined
  /** Since the start. */
  readonly counts: { readonly opened: number; readonly failed: number; readonly refused: number }
}

export type BreakerOptions = {
  /** Unique. By default that of the dependency. */
  readonly name?: string
  readonly dependency: Dependency
  /** Whether a call that rejected with this error failed for a reason of the dependency. By default each does. */
  readonly isFailure?: (error: unknown) => boolean
  /** Whether a call that resolved to this failed. */
  readonly isFailedResult?: (result: unknown) => boolean
  readonly onOpen?: (error: unknown) => void
  readonly onClose?: () => void
  /** The caller logs changes itself. */
  readonly quiet?: boolean
}

/** The code or the name of an error. Its message may name an address, a user or a URL with a key. */
const reasonOf = (error: unknown): string => {
  const { code, name } = (typeof error === 'object' && error !== null ? error : {}) as {
    code?: unknown
    name?: unknown
  }
  const reason = [code, name].find((each) => typeof each === 'string' && /^\w{1,64}$/.test(each))
  return typeof reason === 'string' ? reason : 'Error'
}

type Parts = {
  readonly options: BreakerOptions & { readonly name: string }
  readonly clock: Clock
  readonly policy: () => BreakerPolicy
  readonly onChange: (change: BreakerChange) => void
}

type OwnBreaker = Breaker & { onModeChanged(): void }

/** Consecutive failures, by a policy that may change meanwhile. */
const createFailureCount = (limit: () => number, onFailure: () => void): IBreaker => {
  let failures = 0
  return {
    state: undefined,
    success: () => {
      failures = 0
    },
    failure: () => {
      onFailure()
      failures += 1
      return failures >= limit()
    },
  }
}

const createBreaker = ({ options, clock, policy, onChange }: Parts): OwnBreaker => {
  const { name, dependency, isFailure = () => true, isFailedResult = () => false, onOpen, onClose } = options
  const counts = { opened: 0, failed: 0, refused: 0 }
  let probeAtMs = 0
  let isTripped = false
  let isOpen = false
  let changedAtMs: number | undefined
  let reason: string | undefined

  const opened = (error: unknown) => {
    if (isOpen) return
    isOpen = true
    changedAtMs = clock.now()
    reason = reasonOf(error)
    counts.opened += 1
    onOpen?.(error)
    onChange({ name, dependency, state: 'open', atMs: changedAtMs, reason })
  }
  const closed = () => {
    if (!isOpen) return
    isOpen = false
    changedAtMs = clock.now()
    onClose?.()
    onChange({ name, dependency, state: 'closed', atMs: changedAtMs, reason: undefined })
  }

  const create = () => {
    const circuit = circuitBreaker(handleWhen(isFailure).orWhenResult(isFailedResult), {
      breaker: createFailureCount(
        () => policy().failures,
        () => {
          counts.failed += 1
        },
      ),
      // Probes are timed here by the monotonic clock, because cockatiel uses the wall clock, which may step.
      halfOpenAfter: Number.NEGATIVE_INFINITY,
    })
    circuit.onBreak((failure) => {
      if (circuit !== current) return
      probeAtMs = clock.monotonic() + policy().probeAfterMs
      opened('error' in failure ? failure.error : 'value' in failure ? failure.value : undefined)
    })
    circuit.onReset(() => {
      if (circuit === current) closed()
    })
    return circuit
  }
  let current = create()

  const mayCall = (): boolean => {
    if (isTripped || policy().mode === 'open') return false
    if (policy().mode === 'closed' || current.state === CircuitState.Closed) return true
    return current.state === CircuitState.Open && clock.monotonic() >= probeAtMs
  }
  const allows = (): boolean => {
    const may = mayCall()
    if (!may) counts.refused += 1
    return may
  }

  const state = (): BreakerState => {
    if (isTripped || policy().mode === 'open') return 'open'
    if (policy().mode === 'closed' || current.state === CircuitState.Closed) return 'closed'
    return current.state === CircuitState.HalfOpen ? 'half_open' : 'open'
  }

  return {
    name,
    dependency,
    get state() {
      return state()
    },
    allows,
    execute: async (call) => {
      if (!mayCall()) {
        counts.refused += 1
        throw new BreakerOpen(name)
      }
      return policy().mode === 'closed' ? call() : current.execute(call)
    },
    trip: (error) => {
      isTripped = true
      opened(error)
    },
    renew: () => {
      isTripped = false
      current = create()
      if (state() === 'closed') closed()
    },
    onModeChanged: () => {
      current = create()
      if (state() === 'closed') closed()
      else opened({ code: heldOpen })
    },
    get changedAtMs() {
      return changedAtMs
    },
    get reason() {
      return reason
    },
    counts,
  }
}

/**
 * The breakers of this instance, and the policies that they follow.
 *
 * An instance opens and closes its own breakers by the calls that it makes. The policies are the same on all instances; see
 * `createBreakerService`.
 */
export type Breakers = {
  create(options: BreakerOptions): Breaker
  list(): readonly Breaker[]
  policy(dependency: Dependency): BreakerPolicy
  /** Takes effect at once. A dependency that is not named has its default policy. */
  setPolicies(policies: Partial<BreakerPolicies>): void
  setPolicy(dependency: Dependency, policy: BreakerPolicy): void
  /** Adds a listener, called in the turn in which a breaker opens or closes. */
  onChange(listener: (change: BreakerChange) => void): void
}

export const createBreakers = ({
  clock,
  log,
  defaults,
}: {
  clock: Clock
  log: Pick<Log, 'info' | 'warn'>
  /** Instead of `defaultPolicies`. */
  defaults?: Partial<BreakerPolicies>
}): Breakers => {
  const initial: BreakerPolicies = { ...defaultPolicies, ...defaults }
  const policies: Record<Dependency, BreakerPolicy> = { ...initial }
  const breakers = new Map<string, OwnBreaker>()
  const listeners: ((change: BreakerChange) => void)[] = []

  const report = ({ name, dependency, state, reason }: BreakerChange) => {
    if (state === 'closed') log.info({ event: 'breaker.closed', breaker: name, dependency }, 'a breaker closed')
    else
      log.warn(
        { event: 'breaker.opened', breaker: name, dependency, reason },
        'a breaker opened: nothing is sent to the dependency until a probe of it succeeds',
      )
  }

  const setPolicy = (dependency: Dependency, policy: BreakerPolicy) => {
    const { mode } = policies[dependency]
    policies[dependency] = policy
    if (mode === policy.mode) return
    for (const breaker of breakers.values()) if (breaker.dependency === dependency) breaker.onModeChanged()
  }

  return {
    create: (options) => {
      const { dependency, name = dependency, quiet = false } = options
      if (breakers.has(name)) throw new Error(`The breaker "${name}" exists already`)
      const breaker = createBreaker({
        options: { ...options, name },
        clock,
        policy: () => policies[dependency],
        onChange: (change) => {
          if (!quiet) report(change)
          for (const listener of listeners) listener(change)
        },
      })
      breakers.set(name, breaker)
      return breaker
    },
    list: () => [...breakers.values()],
    policy: (dependency) => policies[dependency],
    setPolicies: (given) => {
      for (const dependency of dependencies) setPolicy(dependency, given[dependency] ?? initial[dependency])
    },
    setPolicy,
    onChange: (listener) => void listeners.push(listener),
  }
}
