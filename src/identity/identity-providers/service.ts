import type { Mail } from '../../mail/service.ts'
import type { Secrets } from '../../platform/secrets.ts'
import type { DeviceStore } from '../device-store.ts'
import type { WayInStore } from '../way-in-store.ts'
import { createCodes } from './codes.ts'
import { createLinkedIdentities } from './linked-identities.ts'
import type { ProviderClient } from './provider-clients.ts'
import { createProviderReauthentication } from './reauthentication.ts'
import { createRoundTrips } from './round-trips.ts'
import { createProviderSignIn, type ProviderSignInDependencies } from './sign-in.ts'
import { createSignInStates } from './sign-in-state.ts'

type Dependencies = Omit<ProviderSignInDependencies, 'codes'> & {
  clients: ReadonlyMap<string, ProviderClient>
  secrets: Secrets
  notices: Pick<DeviceStore, 'addNotice'>
  waysIn: WayInStore
  mail: Pick<Mail, 'enqueue'>
  returnTo: readonly string[]
  publicUrl: string | undefined
}

/** Signing in with identity providers, and the identities that are linked to accounts. */
export const createIdentityProviders = (dependencies: Dependencies) => {
  const { clients, secrets, returnTo, publicUrl, store, waysIn, changes, notices, mail, lifecycle, clock, record } =
    dependencies
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
    reauthenticate: createProviderReauthentication({ ...dependencies, codes }),
    linked: createLinkedIdentities({
      store,
      waysIn,
      codes,
      providers,
      notices,
      mail,
      changes,
      verified,
      clock,
      record,
    }),

    /** For an account that is closed. */
    forget: store.unlinkAll,
    purge: () => store.purge(new Date(clock.now())),
  }
}

export type IdentityProviders = ReturnType<typeof createIdentityProviders>
