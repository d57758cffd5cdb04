import { Buffer } from 'node:buffer'
import { createSignals, type Seeds, type Signals } from '../../anomaly/signals.ts'
import type { Config } from '../../config.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { KeyedHash } from '../../platform/secrets.ts'

/** The same for all instances of a deployment, so that they know principals by the same hashes. */
const seedsFrom = (keyedHash: KeyedHash): Seeds => {
  const bytes = Buffer.from(keyedHash('limits', Buffer.from('seeds of anomalies')))
  return { high: bytes.readInt32LE(0), low: bytes.readInt32LE(4), subject: bytes.readInt32LE(8) }
}

/** Undefined: ANOMALY is off, and nothing is written. */
export const composeSignals = (mode: Config['anomaly'], keyedHash: KeyedHash) =>
  mode === 'off' ? undefined : createSignals(seedsFrom(keyedHash))

/** Every security event is a signal too. */
export const withSignals =
  (record: RecordSecurityEvent, signals: Signals | undefined): RecordSecurityEvent =>
  (context, event, fields) => {
    record(context, event, fields)
    signals?.securityEvent(event, fields)
  }
