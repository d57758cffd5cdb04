import { type AccessParts, composeAccess } from './boot/compose/access.ts'
import { startBackgroundTasks } from './boot/compose/background-tasks.ts'
import { composeFeatures, type Features } from './boot/compose/features.ts'
import {
  composeInfrastructure,
  type Infrastructure,
  type Overrides,
  type ServiceConfig,
} from './boot/compose/infrastructure.ts'
import type { Connection } from './platform/postgres.ts'

export type { Overrides } from './boot/compose/infrastructure.ts'

export type Services = Infrastructure &
  AccessParts &
  Features & {
    /**
     * Set at shutdown, in this order. `draining`: the instance is no longer ready, and serves until load balancers know it.
     * `stopping`: it refuses new requests.
     */
    readonly lifecycle: { draining: boolean; stopping: boolean }
    /** Closes everything in the reverse order of its creation. A second call does nothing. */
    close(): Promise<void>
  }

/**
 * The composition root: four steps, each of which registers how to close the resources that it opened.
 *
 * Guarantee: everything is open when this resolves; when it throws, nothing is left open. Throws when the database cannot be
 * reached, when a migration is refused, or when the signing keys were sealed under another SECRET.
 */
export const createServices = async (
  config: ServiceConfig,
  connection: Connection,
  overrides: Overrides = {},
): Promise<Services> => {
  await using opened = new AsyncDisposableStack()
  const infrastructure = await composeInfrastructure(config, connection, overrides, opened)
  const access = await composeAccess(infrastructure, opened)
  const features = composeFeatures(infrastructure, access, opened)
  startBackgroundTasks(infrastructure, access, features, opened)
  const owned = opened.move()
  return {
    ...infrastructure,
    ...access,
    ...features,
    lifecycle: { draining: false, stopping: false },
    close: () => owned.disposeAsync(),
  }
}
