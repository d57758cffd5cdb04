import type { ProviderName } from '../models/registry.ts'

/** A picture to go by: WebP of at most 1,024 pixels a side, upright, and with nothing said in it of where it is from. */
export type Reference = { readonly bytes: Uint8Array; readonly contentType: string }

/** What one attempt is to make. */
export type Order = {
  readonly generationId: string
  /** What the provider calls it: `provider_model` of the registry. */
  readonly providerModel: string
  readonly kind: 'image' | 'video'
  readonly prompt: string
  readonly negativePrompt: string
  readonly parameters: Readonly<Record<string, string | number | boolean>>
  readonly outputs: number
  readonly reference?: Reference
}

export type Output = { readonly bytes: Uint8Array }

/** Why a provider made nothing. Retryable: another attempt may go better. */
export const providerFailures = ['refused', 'unavailable', 'timeout', 'invalid_output', 'failed'] as const
export type ProviderFailure = (typeof providerFailures)[number]

export class ProviderFailed extends Error {
  override readonly name = 'ProviderFailed'
  readonly failure: ProviderFailure
  readonly retryable: boolean
  constructor(failure: ProviderFailure, { retryable, cause }: { retryable: boolean; cause?: unknown }) {
    super(failure, { cause })
    this.failure = failure
    this.retryable = retryable
  }
}

export type Attempt = {
  /**
   * Aborted when nobody waits for this attempt any more. What it noted is then left alone: another attempt goes on with it, or
   * it is cancelled by whoever ended it.
   */
  readonly signal: AbortSignal
  /** Tells how far it is, from 0 to 1. */
  onProgress(fraction: number): void
  /** What an earlier attempt noted, if any. */
  readonly remoteOrder: unknown
  /**
   * Notes what the provider calls this order, before waiting for it; resolves when that is written down, and rejects when
   * it cannot be, so that no other attempt will know. Null: nothing is left that another attempt could go on from.
   */
  recordRemoteOrder(remote: unknown): Promise<void>
}

/**
 * Somebody who makes pictures or films.
 *
 * Promise: resolves to as many outputs as were ordered, or throws `ProviderFailed`; ends soon after `signal` aborts; what
 * an earlier attempt noted is taken up instead of ordered again.
 */
export type Provider = {
  readonly name: ProviderName
  generate(order: Order, attempt: Attempt): Promise<readonly Output[]>
  /**
   * Tells that nobody waits any more for what an attempt noted. Resolves when it was told or is over; throws when it could
   * not be told. Where a provider has nothing that goes on without us there is none.
   */
  cancel?(providerModel: string, remote: unknown): Promise<void>
}
