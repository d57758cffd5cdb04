import type { ProviderName } from '../models/registry.ts'

/** A reference image: WebP of at most 1,024 pixels a side, upright, without metadata but the mark of how it was made. */
export type Reference = { readonly bytes: Uint8Array; readonly contentType: string }

/** The order of one attempt. */
export type Order = {
  readonly generationId: string
  /** The provider's name of the model: `provider_model` of the registry. */
  readonly providerModel: string
  readonly kind: 'image' | 'video'
  readonly prompt: string
  readonly negativePrompt: string
  readonly parameters: Readonly<Record<string, string | number | boolean>>
  readonly outputs: number
  readonly reference?: Reference
}

export type Output = { readonly bytes: Uint8Array }

/** How the outputs of a provider come to be, where it does not say: a model makes them (IPTC digital source type). */
export const defaultDigitalSource = 'trainedAlgorithmicMedia'

/** Why an order failed. */
export const providerFailures = ['refused', 'unavailable', 'timeout', 'invalid_output', 'failed'] as const
export type ProviderFailure = (typeof providerFailures)[number]

export class ProviderFailed extends Error {
  override readonly name = 'ProviderFailed'
  readonly failure: ProviderFailure
  /** Another attempt may succeed. */
  readonly retryable: boolean
  constructor(failure: ProviderFailure, { retryable, cause }: { retryable: boolean; cause?: unknown }) {
    super(failure, { cause })
    this.failure = failure
    this.retryable = retryable
  }
}

export type Attempt = {
  /**
   * Aborts when the attempt is cancelled or loses its lease. The provider then leaves the recorded remote order alone: another
   * attempt resumes it, or the canceller cancels it.
   */
  readonly signal: AbortSignal
  /** Reports the completed fraction, from 0 to 1. */
  onProgress(fraction: number): void
  /** The remote order that an earlier attempt recorded, if any. */
  readonly remoteOrder: unknown
  /**
   * Records how the provider identifies this order; called before waiting for it. Resolves when it is stored durably. Rejects
   * when it cannot be stored: no other attempt will then know the order. Null: there is no order left to resume.
   */
  recordRemoteOrder(remote: unknown): Promise<void>
}

/**
 * A service that generates images or videos.
 *
 * Promise: `generate` resolves to exactly the number of outputs ordered, or throws `ProviderFailed`. It settles soon after
 * `signal` aborts. A remote order that an earlier attempt recorded is resumed, not placed again.
 */
export type Provider = {
  readonly name: ProviderName
  /** The IPTC digital source type of its outputs. Default: `defaultDigitalSource`. */
  readonly digitalSource?: string
  generate(order: Order, attempt: Attempt): Promise<readonly Output[]>
  /**
   * Cancels a recorded remote order. Resolves when the provider has accepted the cancellation or the order is over; throws
   * when the provider cannot be reached. Absent where an order cannot outlive its attempt.
   */
  cancel?(providerModel: string, remote: unknown): Promise<void>
}
