import { type Access, createAccess } from './access/access.ts'
import { createAccessAlarm } from './access/alarm.ts'
import { createChanges } from './access/changes.ts'
import { createFactCache } from './access/facts.ts'
import { createGuard, type Guard } from './access/guard.ts'
import { createAccessInside } from './access/inside.ts'
import { createListing, type Listing } from './access/listing.ts'
import { createListingStore } from './access/listing-store.ts'
import type { Fact, FactKind } from './access/model.ts'
import { createFactStore, findAccessDifferences, syncAccessRules } from './access/store.ts'
import type { Config } from './config.ts'
import { createGenerations, type Generations } from './generations/service.ts'
import { createGenerationStore } from './generations/store.ts'
import { createPasswords } from './identity/passwords.ts'
import { createIdentity, type Identity } from './identity/service.ts'
import { createSigningKeys, type SigningKeys } from './identity/signing-keys.ts'
import { createIdentityStore } from './identity/store.ts'
import { type Clock, systemClock } from './kit/clock.ts'
import { createTtlMap } from './kit/ttl-map.ts'
import { createLog, type Log } from './platform/log.ts'
import { migrate } from './platform/migrate.ts'
import {
  type Connection,
  connectOnce,
  createDatabase,
  type Database,
  readConnectionBudget,
} from './platform/postgres.ts'
import { createSecrets } from './platform/secrets.ts'
import { createProjects, type Projects } from './projects/service.ts'
import { createProjectStore } from './projects/store.ts'
import { createServiceKeys, type ServiceKeys } from './service-keys/service.ts'
import { createServiceKeyStore } from './service-keys/store.ts'
import { createKeyUsage, flushMs } from './service-keys/usage.ts'
import { createInvitations, type Invitations } from './teams/invitations/service.ts'
import { createInvitationStore } from './teams/invitations/store.ts'
import { createTeams, type Teams } from './teams/service.ts'
import { createTeamStore } from './teams/store.ts'

export type Services = {
  readonly config: Config
  readonly clock: Clock
  readonly log: Log
  readonly database: Database
  readonly keys: SigningKeys
  readonly identity: Identity
  readonly access: Access
  readonly listing: Listing
  readonly guard: Guard
  readonly serviceKeys: ServiceKeys
  readonly teams: Teams
  readonly invitations: Invitations
  readonly projects: Projects
  readonly generations: Generations
  /** Turned on when the process is told to end: it is no longer ready, and new work goes elsewhere. */
  readonly lifecycle: { stopping: boolean }
  close(): Promise<void>
}

export type Overrides = {
  clock?: Clock
  log?: Log
  onStatement?: (text: string) => void
}

const keyRefreshMs = 60_000
const purgeMs = 3_600_000
const accessCheckMs = 3_600_000
/** For statements that nobody waits for any more. */
const closingMs = 500

/** Migrates and reads what the server allows, over one connection that is closed again. */
const prepareDatabase = async (connection: Connection, config: Config, log: Log): Promise<number> => {
  const sql = connectOnce(connection)
  try {
    const applied = await migrate(sql)
    if (applied.length > 0) log.info({ migrations: applied }, 'schema brought up to date')
    await syncAccessRules(sql)
    return config.dbConnections ?? (await readConnectionBudget(sql))
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/**
 * The composition root: everything is made here, in order, and closed in reverse. Throws when the database cannot be
 * reached, a migration is refused or the signing keys cannot be opened; then nothing is left open.
 */
export const createServices = async (
  config: Config & { readonly secret: string },
  connection: Connection,
  overrides: Overrides = {},
): Promise<Services> => {
  const clock = overrides.clock ?? systemClock
  const log = overrides.log ?? createLog(config.logLevel)
  const budget = await prepareDatabase(connection, config, log)
  const database = createDatabase({ connection, budget, onStatement: overrides.onStatement })
  const secrets = createSecrets(config.secret)

  const identityStore = createIdentityStore(database.auth)
  const keys = createSigningKeys({ store: identityStore, secrets, clock, tokenTtlMs: config.accessTokenTtlMs })
  try {
    await keys.refresh()
  } catch (error) {
    await database.close(0)
    throw error
  }

  const memory = createTtlMap<Fact[FactKind]>({ clock, maxEntries: config.l1MaxEntries, ttlMs: config.l1TtlMs })
  const facts = createFactCache({ store: createFactStore(database.auth), memory })
  const changes = createChanges(database.write, facts)
  const serviceKeyStore = createServiceKeyStore(database.admin, database.batch)
  const keyUsage = createKeyUsage({ store: serviceKeyStore, clock })
  const access = createAccess({ facts, clock, onServiceKeyUsed: keyUsage.note })
  const listingStore = createListingStore(database.read)
  const accessInside = createAccessInside(clock)
  const passwords = createPasswords({ workers: config.hashWorkers, maxQueued: config.hashQueue })
  const teamStore = createTeamStore(database.read, database.analytics)
  const identity = createIdentity({
    store: identityStore,
    changes,
    passwords,
    keys,
    secrets,
    policy: { issuer: config.issuer, audience: config.audience, ttlMs: config.accessTokenTtlMs },
    clock,
    log,
    maxCachedTokens: 2 * config.l1MaxEntries,
    leaveTeams: teamStore.leaveAll,
  })
  const guard = createGuard({ access, claimsOf: identity.claimsOf })

  const every = (ms: number, name: string, work: () => Promise<unknown>) =>
    setInterval(() => void work().catch((error) => log.warn({ task: name, error }, 'a scheduled task failed')), ms)
  const checkAccess = createAccessAlarm({ findDifferences: () => findAccessDifferences(database.batch), log })
  const timers = [
    every(keyRefreshMs, 'signing keys', keys.refresh),
    every(purgeMs, 'session purge', identity.purge),
    every(flushMs, 'use of service keys', keyUsage.flush),
    every(accessCheckMs, 'check of access rows', checkAccess),
  ]

  return {
    config,
    clock,
    log,
    database,
    keys,
    identity,
    access,
    listing: createListing(listingStore),
    guard,
    serviceKeys: createServiceKeys({ store: serviceKeyStore, changes, clock }),
    teams: createTeams({ store: teamStore, changes, clock }),
    invitations: createInvitations({
      store: createInvitationStore(database.read),
      teams: teamStore,
      changes,
      clock,
    }),
    projects: createProjects({ store: createProjectStore(database.read, listingStore), access, accessInside, changes }),
    generations: createGenerations({
      store: createGenerationStore(database.read, listingStore),
      access,
      accessInside,
      changes,
    }),
    lifecycle: { stopping: false },
    close: async () => {
      for (const timer of timers) clearInterval(timer)
      await passwords.close()
      await keyUsage.flush().catch((error) => log.warn({ error }, 'the last use of service keys is lost'))
      await database.close(closingMs)
    },
  }
}
