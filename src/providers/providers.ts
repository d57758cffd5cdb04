import type { Config } from '../config.ts'
import type { Clock } from '../kit/clock.ts'
import type { Images } from '../media/images/images.ts'
import type { ProviderName } from '../models/registry.ts'
import type { Breakers } from '../platform/breaker.ts'
import type { Log } from '../platform/log.ts'
import { createSafeFetch, type SafeFetch } from '../platform/safe-fetch.ts'
import { createFal } from './fal.ts'
import { createLocalProvider } from './local/provider.ts'
import { createOpenai } from './openai.ts'
import type { Provider } from './provider.ts'

/** The providers of this deployment: `local` always, the others when their key is configured. */
export const createProviders = ({
  config,
  images,
  clock,
  log,
  safeFetch = createSafeFetch(),
  breakers,
}: {
  config: Config
  images: Pick<Images, 'render'>
  clock: Clock
  log: Log
  /** Fetches the output URLs that providers return. */
  safeFetch?: SafeFetch | undefined
  breakers?: Pick<Breakers, 'create'> | undefined
}): ReadonlyMap<ProviderName, Provider> => {
  const { falKey, falQueueUrl, falOutputHosts, openaiKey, openaiBaseUrl, openaiOutputHosts } = config
  const providers = new Map<ProviderName, Provider>([['local', createLocalProvider({ images, clock })]])
  if (falKey !== undefined) {
    const outputHosts = falOutputHosts
    providers.set(
      'fal',
      createFal({ key: falKey, queueUrl: falQueueUrl, outputHosts, safeFetch, clock, log, breakers }),
    )
  }
  if (openaiKey !== undefined) {
    const outputHosts = openaiOutputHosts
    providers.set(
      'openai',
      createOpenai({ key: openaiKey, baseUrl: openaiBaseUrl, outputHosts, safeFetch, clock, log, breakers }),
    )
  }
  return providers
}
