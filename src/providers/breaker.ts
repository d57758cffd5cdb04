import { CircuitState, ConsecutiveBreaker, circuitBreaker, handleWhenResult } from 'cockatiel'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { ProviderError } from './provider-error.ts'

/** A circuit breaker that opens after consecutive failures, and admits one probe every `probeAfterMs` while it is open. */
export const createBreaker = ({
  name,
  clock,
  log,
  failuresToTrip,
  probeAfterMs,
}: {
  /** Of the provider. */
  readonly name: string
  readonly clock: Clock
  readonly log: Log
  readonly failuresToTrip: number
  readonly probeAfterMs: number
}) => {
  const breaker = circuitBreaker(
    handleWhenResult((answer) => answer instanceof ProviderError && answer.tripsBreaker),
    {
      breaker: new ConsecutiveBreaker(failuresToTrip),
      // `allows` times the probes by the monotonic clock; cockatiel would use the wall clock, which can step.
      halfOpenAfter: Number.NEGATIVE_INFINITY,
    },
  )
  let probeAtMs = 0
  let tripped = false
  breaker.onBreak(() => {
    probeAtMs = clock.monotonic() + probeAfterMs
    if (!tripped) log.warn({ event: 'provider.tripped', provider: name }, 'the circuit breaker of a provider opened')
    tripped = true
  })
  breaker.onReset(() => {
    tripped = false
    log.info({ event: 'provider.back', provider: name }, 'the circuit breaker of a provider closed')
  })
  const allows = () =>
    breaker.state === CircuitState.Closed || (breaker.state === CircuitState.Open && clock.monotonic() >= probeAtMs)
  return {
    allows,
    execute: (call: () => Promise<unknown>): Promise<unknown> => breaker.execute(call),
    state: () => (breaker.state === CircuitState.Closed ? ('up' as const) : ('tripped' as const)),
  }
}
