import { Buffer } from 'node:buffer'
import { createHmac } from 'node:crypto'

/** A secret as receivers get it: the form that libraries for Standard Webhooks take. */
export const secretText = (secret: Uint8Array): string => `whsec_${Buffer.from(secret).toString('base64')}`

/**
 * The headers that prove to a receiver who sent a request (Standard Webhooks 1.0.0).
 *
 * The id is that of the event, the same in every attempt, so that a receiver can ignore events that it has processed; the
 * timestamp is that of the attempt. Each secret has a signature, so that a receiver may hold either while they rotate.
 */
export const signatureHeaders = ({
  id,
  secrets,
  body,
  nowMs,
}: {
  id: string
  secrets: readonly Uint8Array[]
  body: string
  nowMs: number
}) => {
  const timestamp = String(Math.floor(nowMs / 1_000))
  const signatures = secrets.map(
    (secret) => `v1,${createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64')}`,
  )
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') }
}
