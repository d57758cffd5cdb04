import { Buffer } from 'node:buffer'
import { createAnomalyExchange } from '../../anomaly/exchange.ts'
import { createAnomalies } from '../../anomaly/service.ts'
import { countryCode } from '../../anomaly/signals.ts'
import { createAnomalyStore } from '../../anomaly/store.ts'
import { countries } from '../../security-context/countries.ts'
import { isImpossibleTravel } from '../../security-context/travel.ts'
import type { AccessParts } from './access.ts'
import type { Infrastructure } from './infrastructure.ts'

/** Countries between which people, or their networks, pass within minutes. */
const nearPairs = () => {
  const codes = [...countries.keys()]
  return codes.flatMap((one, at) =>
    codes
      .slice(at + 1)
      .filter((other) => !isImpossibleTravel(one, other, 0))
      .map((other) => [countryCode(one), countryCode(other)] as const),
  )
}

/** Between access and limits: the detection of anomalies. */
export const composeAnomalies = (
  { config, clock, log, redis, keyedHash, database, signals, incidentReports, forgeries }: Infrastructure,
  { caches: { bus } }: AccessParts,
  stack: AsyncDisposableStack,
) => {
  if (signals === undefined) return undefined
  const hash = (text: string) =>
    Buffer.from(keyedHash('limits', Buffer.from(text)))
      .toString('base64url')
      .slice(0, 22)
  const anomalies = createAnomalies({
    mode: config.anomaly,
    signals,
    exchange:
      redis &&
      createAnomalyExchange({
        redis,
        prefix: hash('anomalies'),
        instance: bus.instance,
        onForged: forgeries.onForged,
        authenticate: (text) => hash(`batch of anomalies ${text}`),
      }),
    near: nearPairs(),
    findStanding: createAnomalyStore(database.batch).findStanding,
    openIncident: incidentReports.open,
    clock,
    log,
  })
  stack.defer(anomalies.close)
  return anomalies
}
