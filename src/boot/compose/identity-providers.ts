import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Welcome } from '../../credits/welcome.ts'
import { createProviderClients, type ProviderClient } from '../../identity/identity-providers/provider-clients.ts'
import { createIdentityProviders } from '../../identity/identity-providers/service.ts'
import type { IdentityProviderStore } from '../../identity/identity-providers/store.ts'
import type { Identity } from '../../identity/service.ts'
import type { SignInStore } from '../../identity/sign-in-store.ts'
import type { WayInStore } from '../../identity/way-in-store.ts'
import type { Mail } from '../../mail/service.ts'
import type { Infrastructure } from './infrastructure.ts'

type Parts = {
  readonly identity: Identity
  readonly store: IdentityProviderStore
  readonly notices: Pick<SignInStore, 'addNotice'>
  readonly waysIn: WayInStore
  readonly mail: Pick<Mail, 'enqueue'>
  readonly changes: Changes
  readonly welcome: Welcome
}

/** Part of the third step: signing in with identity providers. */
export const composeIdentityProviders = (
  { config, clock, secrets, identityStore, identityProviderLibrary, recordSecurityEvent: record }: Infrastructure,
  { identity, store, notices, waysIn, mail, changes, welcome }: Parts,
) => {
  const { open, openAnother, reopen, recognize, recognizeSource, secondStep } = identity.opening
  const clients: ReadonlyMap<string, ProviderClient> =
    identityProviderLibrary === undefined
      ? new Map()
      : createProviderClients(config.identityProviders, {
          createOpenIdClient: (settings) => identityProviderLibrary.createOpenIdClient(settings, clock),
          createOauthClient: identityProviderLibrary.createOauthClient,
        })
  return createIdentityProviders({
    clients,
    store,
    accounts: identityStore,
    sessions: { open, openAnother, reopen },
    protection: { recognize, recognizeSource },
    secondStep,
    lifecycle: { registered: welcome.registered, verified: welcome.verified },
    notices,
    waysIn,
    mail,
    changes,
    secrets,
    returnTo: config.returnTo,
    publicUrl: config.publicUrl,
    clock,
    record,
  })
}
