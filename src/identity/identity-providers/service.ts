import type { Caller } from '../../access/principal.ts'
import { Fault } from '../../fault.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { Secrets } from '../../platform/secrets.ts'
import type { DeviceStore } from '../device-store.ts'
import { createCodes, type GivenCode } from './codes.ts'
import { createLinkedIdentities } from './linked-identities.ts'
import type { ProviderClient } from './provider-clients.ts'
import { createRoundTrips } from './round-trips.ts'
import { createProviderSignIn, type ProviderSignInDependencies } from './sign-in.ts'
import { createSignInStates } from './sign-in-state.ts'

type Dependencies = Omit<ProviderSignInDependencies, 'codes'> & {
  clients: ReadonlyMap<string, ProviderClient>
  secrets: Secrets
  notices: Pick<DeviceStore, 'addNotice'>
  returnTo: readonly string[]
  publicUrl: string | undefined
}

/** Signing in with identity providers, and the identities that are linked to accounts. */
export const createIdentityProviders = (dependencies: Dependencies) => {
  const { clients, secrets, returnTo, publicUrl, store, changes, notices, lifecycle, clock, record } = dependencies
  const codes = createCodes({ store, secrets, clock })
  const states = createSignInStates(secrets, clock)
  const { prepare, start, startWithTicket, finish, list } = createRoundTrips({
    clients,
    states,
    codes,
    returnTo,
    publicUrl,
    clock,
    record,
  })
  const providers = [...clients.values()].map(({ settings }) => settings)
  const { verified } = lifecycle
  return {
    list,
    start,
    startWithTicket,
    finish,
    prepare,
    signIn: createProviderSignIn({ ...dependencies, codes }),
    linked: createLinkedIdentities({ store, codes, providers, notices, changes, verified, clock, record }),

    /**
     * Uses a code with which a signed-in person has proven again who they are. Throws `identity_provider.code_invalid` where the
     * identity is not linked to the account.
     */
    proveAgain: async (tx: TransactionSql, caller: Pick<Caller, 'userId'>, given: GivenCode): Promise<void> => {
      const { issuer, subject } = await codes.use(tx, given, 'reauthenticate', caller.userId)
      const linked = await store.listOf(tx, caller.userId)
      if (!linked.some((row) => row.issuer === issuer && row.subject === subject))
        throw new Fault('identity_provider.code_invalid')
    },

    /** For an account that is closed. */
    forget: store.unlinkAll,
    purge: () => store.purge(new Date(clock.now())),
  }
}

export type IdentityProviders = ReturnType<typeof createIdentityProviders>
