import process from 'node:process'
import { toOcsf } from '../../src/siem/ocsf.ts'
import { createReceiver } from '../../src/siem/receivers.ts'
import type { SiemSettings } from '../../src/siem/settings.ts'
import { auditedEvent } from './events.ts'

/*
 * Sends a batch to the receiver of the settings in the first argument: as many events as the second says, whose values before the
 * change have as many characters as the third says. Says how it ended.
 */
const [settings = '', count = '1', length = '10'] = process.argv.slice(2)
const product = { name: 'Velro', version: '1.0.0' }
const text = '…ü€\u{1f600}"\\\n'.repeat(Math.ceil(Number(length) / 7)).slice(0, Number(length))
const events = Array.from({ length: Number(count) }, (_, at) =>
  toOcsf(auditedEvent({ before: { text, at } }, at + 1), 'a project was changed', product),
)
const send = createReceiver(JSON.parse(settings) as SiemSettings, product.name)
await send(events, AbortSignal.timeout(10_000)).then(
  () => console.log('sent'),
  (error) => console.log(`failed: ${error}`),
)
