import { ImageRefused, VideoRefused } from '../media/images/images.ts'
import { PoolBusy } from '../platform/worker-pool.ts'
import { ProviderFailed, type ProviderFailure } from './provider.ts'

/** Classifies any error of an attempt: the reason its owner sees, and whether another attempt may succeed. */
export const classifyProviderError = (error: unknown): { reason: ProviderFailure; retryable: boolean } => {
  if (error instanceof ProviderFailed) return { reason: error.failure, retryable: error.retryable }
  if (error instanceof ImageRefused || error instanceof VideoRefused)
    return { reason: 'invalid_output', retryable: false }
  if (error instanceof PoolBusy) return { reason: 'unavailable', retryable: true }
  return { reason: 'failed', retryable: true }
}
