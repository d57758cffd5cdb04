import { isAuditAction, textOfAction } from '../../audit/catalogue.ts'
import { productVersion } from '../../kit/version.ts'
import { BatchTooLarge } from '../../platform/siem-transport.ts'
import { createReceiver } from '../../siem/receivers.ts'
import { createSiemSender, type SiemSender } from '../../siem/sender.ts'
import { createSiemStore } from '../../siem/store.ts'
import type { Infrastructure } from './infrastructure.ts'

/** Sends the audit log to the receiver of security events. Undefined where none is configured. */
export const composeSiem = (
  { config, database, breakers, readers, realClock, log }: Infrastructure,
  instance: string,
  stack: AsyncDisposableStack,
): SiemSender | undefined => {
  const { siem } = config
  if (siem === undefined) return undefined
  const product = { name: 'Velro', version: productVersion }
  const sender = createSiemSender({
    sink: siem.kind,
    holder: instance,
    store: createSiemStore(database.batch),
    send: createReceiver(siem, product.name),
    breaker: breakers.create({ dependency: 'siem', isFailure: (error) => !(error instanceof BatchTooLarge) }),
    messageOf: (action) => (isAuditAction(action) ? textOfAction(action) : 'an event that the audit log no longer has'),
    product,
    clock: realClock,
    log,
  })
  stack.defer(sender.close)
  readers.register('siem', () => (sender.figures.lag.events === 0 ? null : 1_000 * sender.figures.lag.seconds))
  sender.start()
  return sender
}
