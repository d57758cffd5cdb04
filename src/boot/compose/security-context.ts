import type { Config } from '../../config.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { type Geoip, openGeoip } from '../../platform/geoip.ts'
import type { Secrets } from '../../platform/secrets.ts'
import { createClientContexts } from '../../security-context/client-contexts.ts'
import { createScreening, type PlaceOf } from '../../security-context/screening.ts'

/** Opens the databases of addresses, or takes those of a test. Throws `GeoipRefused`. */
export const composeSecurityContext = async (
  { securityContext: mode, securityContextRollout: rolloutPercent, geoipCountryFile, geoipSystemFile }: Config,
  {
    secrets,
    clock,
    record,
    placeOf,
  }: { secrets: Secrets; clock: Clock; record: RecordSecurityEvent; placeOf: PlaceOf | undefined },
  given: Geoip | undefined,
) => {
  const geoip = given ?? (await openGeoip({ countryFile: geoipCountryFile, systemFile: geoipSystemFile }))
  const clientContexts = createClientContexts({ geoip, secrets, clock })
  return {
    clientContexts,
    screening: createScreening({ mode, rolloutPercent, contexts: clientContexts, clock, record, placeOf }),
  }
}
