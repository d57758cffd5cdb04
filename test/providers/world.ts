import { systemClock } from '../../src/kit/clock.ts'
import { createBreakers } from '../../src/platform/breaker.ts'
import { createSafeFetch } from '../../src/platform/safe-fetch.ts'
import { type Attempt, type Order, ProviderFailed } from '../../src/providers/provider.ts'
import { connectToFake, type FakeServer } from './fake-server.ts'

export const imageOrder: Order = {
  generationId: '0192f0c1-2b3a-7c4d-8e5f-60718293a4b5',
  providerModel: 'fal-ai/flux/schnell',
  kind: 'image',
  prompt: 'a lighthouse at dusk',
  negativePrompt: '',
  parameters: { image_size: 'square_hd', num_inference_steps: 4, seed: 7, output_format: 'png' },
  outputs: 2,
}

/** An attempt that records the progress and the remote orders it receives. */
export const createAttempt = ({ remoteOrder, signal }: { remoteOrder?: unknown; signal?: AbortSignal } = {}) => {
  const recorded: unknown[] = []
  const progress: number[] = []
  const attempt: Attempt = {
    signal: signal ?? new AbortController().signal,
    remoteOrder,
    onProgress: (fraction) => void progress.push(fraction),
    recordRemoteOrder: async (remote) => void recorded.push(remote),
  }
  return { attempt, recorded, progress }
}

/** The dependencies of a provider. Outputs come from the fake server too; pauses end at once and are recorded. */
export const createProviderWorld = (server: FakeServer) => {
  const { connect, connections } = connectToFake(server)
  const names: Record<string, string[]> = { 'v3.fal.media': ['93.184.215.14'] }
  const pauses: number[] = []
  const logged: unknown[] = []
  const log = (fields: object, message: string) => void logged.push({ ...fields, message })
  return {
    names,
    pauses,
    logged,
    connections,
    given: {
      outputHosts: ['fal.media'],
      safeFetch: createSafeFetch({ resolve: async (name) => names[name] ?? [], connect }),
      clock: systemClock,
      log: { debug: log, info: log, warn: log, error: log },
      random: () => 0.5,
      wait: async (ms: number, signal: AbortSignal) => {
        pauses.push(ms)
        // Yields to the event loop, as a real pause does.
        await new Promise((resolve) => setTimeout(resolve, 1))
        signal.throwIfAborted()
      },
    },
  }
}

/** Breakers of providers that open after so many consecutive failures. */
export const opensAfter = (
  failures: number,
  { clock, log }: Pick<Parameters<typeof createBreakers>[0], 'clock' | 'log'>,
) => ({
  breakers: createBreakers({
    clock,
    log,
    defaults: { provider: { mode: 'automatic', failures, probeAfterMs: 30_000 } },
  }),
})

/** The `ProviderFailed` that an attempt threw. Any other outcome fails the test. */
export const failureOf = async (work: Promise<unknown>): Promise<ProviderFailed> => {
  const outcome = await work.then(
    () => 'resolved',
    (error: unknown) => error,
  )
  if (!(outcome instanceof ProviderFailed))
    throw new Error('The attempt did not throw a ProviderFailed', { cause: outcome })
  return outcome
}
