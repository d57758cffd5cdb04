import type { ImageRefusal } from '../media/formats/image-format.ts'
import type { VideoRefusal } from '../media/formats/video-format.ts'
import { ImageRefused, VideoRefused } from '../media/images/images.ts'
import { FetchRefused } from '../platform/safe-fetch.ts'
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

const refusalOfFetch = { type: 'type_not_accepted', size: 'too_many_bytes' } as const

/** Why an output of a provider is refused; undefined for any other failure of an attempt. */
export const outputRefusalOf = (error: unknown): ImageRefusal | VideoRefusal | undefined => {
  if (error instanceof ImageRefused || error instanceof VideoRefused) return error.reason
  const cause = error instanceof ProviderFailed ? error.cause : undefined
  if (!(cause instanceof FetchRefused)) return undefined
  return cause.reason === 'type' || cause.reason === 'size' ? refusalOfFetch[cause.reason] : undefined
}
