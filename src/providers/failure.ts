import { ImageRefused, VideoRefused } from '../media/images/images.ts'
import { PoolBusy } from '../platform/worker-pool.ts'
import { ProviderFailed, type ProviderFailure } from './provider.ts'

/** What an error on the way from an order to what was made means, in the words that its owner is told. */
export const classifyProviderError = (error: unknown): { reason: ProviderFailure; retryable: boolean } => {
  if (error instanceof ProviderFailed) return { reason: error.failure, retryable: error.retryable }
  if (error instanceof ImageRefused || error instanceof VideoRefused)
    return { reason: 'invalid_output', retryable: false }
  if (error instanceof PoolBusy) return { reason: 'unavailable', retryable: true }
  return { reason: 'failed', retryable: true }
}
