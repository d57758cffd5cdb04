import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { bodyLimits } from '../../http/body.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { noContent } from '../../http/schema-types.ts'
import { refreshAnswer, signInAnswer } from '../model.ts'
import type { Identity } from '../service.ts'
import type { SignIns } from '../session-delivery.ts'
import * as model from './model.ts'

const tags = ['auth']
const maxBytes = bodyLimits.auth
/** A route that needs no credential, because it makes one. */
const authenticates = { tags, maxBytes, open: true, budget: 'auth' } as const
const sensitive = 'session.reauthentication_required'
/** Where mails are configured, of a person who has not verified the address. */
const unproven = 'identity.email_not_verified'

type Dependencies = {
  identity: Identity
  guard: Guard
  addressOf: (request: Request) => string
  signIns: SignIns
}

/** Signing in with a second factor or a passkey, and authenticating again; below the prefix of authentication. */
const signInRoutes = ({ identity, guard, signIns }: Dependencies) =>
  new Elysia()
    .use(guard)
    .post('/login/second-factor', ({ context, body, request }) => signIns.completeSignIn(context, body, request), {
      ...contract(
        { body: model.secondStep },
        { 200: signInAnswer },
        {
          summary: 'Complete a sign-in with a second factor: exactly one of `code`, `recovery_code` and `passkey`',
          ...authenticates,
          errors: [
            'request.origin_refused',
            'identity.sign_in_expired',
            'identity.second_factor_wrong',
            'identity.sign_in_paused',
          ],
        },
      ),
    })
    .post('/login/passkey/options', () => identity.passkeySignIn.options(), {
      ...contract(
        {},
        { 200: model.passkeyOptions },
        {
          summary: 'Options to sign in with a passkey alone, for 5 minutes',
          ...authenticates,
          errors: ['passkey.not_configured'],
        },
      ),
    })
    .post('/login/passkey', ({ context, body, request }) => signIns.signInWithPasskey(context, body, request), {
      ...contract(
        { body: model.passkeySignIn },
        { 200: signInAnswer },
        {
          summary: 'Sign in with a passkey alone. It has verified its user, so no second factor is asked for',
          ...authenticates,
          errors: [
            'request.origin_refused',
            'passkey.refused',
            'identity.account_suspended',
            'identity.email_not_verified',
            'passkey.not_configured',
          ],
        },
      ),
    })
    .post('/reauthenticate/options', ({ context, caller }) => identity.reauthentication.options(context, caller), {
      signedIn: true,
      ...contract(
        {},
        { 200: model.reauthenticationOptions },
        { summary: 'What you can authenticate again with', tags, changes: true, isWayOut: true },
      ),
    })
    .post(
      '/reauthenticate',
      async ({ context, caller, body, request }) =>
        signIns.renew(
          context,
          await identity.reauthentication.reauthenticate(context, caller, body, signIns.deviceOf(request)),
        ),
      {
        signedIn: true,
        ...contract(
          { body: model.reauthentication },
          { 200: refreshAnswer },
          {
            summary:
              'Authenticate again, as sensitive changes require it within the last 5 minutes: by the password, with a second factor where the account has one, or by a passkey. A new session takes the place of this one: go on with the tokens of the response',
            tags,
            maxBytes,
            budget: 'auth',
            isWayOut: true,
            errors: [
              'identity.password_missing',
              'identity.password_wrong',
              'identity.second_factor_missing',
              'identity.second_factor_wrong',
              'identity.sign_in_paused',
              'identity.busy',
            ],
          },
        ),
      },
    )

/** Authenticator apps and recovery codes; below the prefix of authentication. */
const totpRoutes = ({ identity: { factors }, guard, addressOf }: Dependencies) =>
  new Elysia()
    .use(guard)
    .get('/second-factors', ({ context, caller }) => factors.list(context, caller), {
      signedIn: true,
      ...contract({}, { 200: model.secondFactors }, { summary: 'Your second factors', tags }),
    })
    .post('/totp', ({ context, caller }) => factors.startTotp(context, caller), {
      recently: 'person',
      ...contract(
        {},
        { 200: model.totpSetup },
        {
          summary: 'Start the set-up of an authenticator app (RFC 6238). It is no factor before it is confirmed',
          tags,
          changes: true,
          errors: ['totp.already_enabled', unproven, sensitive],
        },
      ),
    })
    .post(
      '/totp/confirm',
      ({ context, caller, body, request }) => factors.confirmTotp(context, caller, body.code, addressOf(request)),
      {
        recently: 'person',
        ...contract(
          { body: model.totpConfirmation },
          { 200: model.confirmedTotp },
          {
            summary: 'Turn the authenticator app on by a code of it. From then on signing in needs a second factor',
            tags,
            maxBytes,
            budget: 'auth',
            errors: ['totp.not_started', 'totp.already_enabled', 'identity.second_factor_wrong', unproven, sensitive],
          },
        ),
      },
    )
    .delete(
      '/totp',
      async ({ context, caller, request, status }) => {
        await factors.removeTotp(context, caller, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract(
          {},
          { 204: noContent },
          { summary: 'Remove the authenticator app', tags, errors: ['totp.not_found', sensitive] },
        ),
      },
    )
    .post(
      '/recovery-codes',
      ({ context, caller, request }) => factors.replaceRecoveryCodes(context, caller, addressOf(request)),
      {
        recently: 'person',
        ...contract(
          {},
          { 200: model.recoveryCodes },
          {
            summary: 'New recovery codes, which replace all earlier ones',
            tags,
            changes: true,
            errors: ['second_factor.none', sensitive],
          },
        ),
      },
    )

/** Passkeys; below the prefix of authentication. */
const passkeyRoutes = ({ identity: { factors }, guard, addressOf }: Dependencies) =>
  new Elysia()
    .use(guard)
    .post('/passkeys/options', ({ context, caller }) => factors.passkeyCreationOptions(context, caller), {
      recently: 'person',
      ...contract(
        {},
        { 200: model.creationOptions },
        {
          summary: 'Options to create a passkey, for 5 minutes',
          tags,
          changes: true,
          errors: ['passkey.not_configured', unproven, sensitive],
        },
      ),
    })
    .post(
      '/passkeys',
      async ({ context, caller, body, request, set, status }) => {
        const added = await factors.addPasskey(context, caller, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ passkey }) => `/api/v1/auth/passkeys/${passkey.id}`, added),
        )
      },
      {
        recently: 'person',
        ...contract(
          { body: model.newPasskey },
          { 201: model.createdPasskey },
          {
            summary: 'Add a passkey. From then on signing in with the password needs a second factor',
            tags,
            maxBytes,
            errors: [
              'passkey.response_invalid',
              'passkey.known',
              'passkey.too_many',
              'passkey.not_configured',
              unproven,
              sensitive,
            ],
          },
        ),
      },
    )
    .patch(
      '/passkeys/:passkey_id',
      ({ context, caller, params, body }) => factors.renamePasskey(context, caller, params.passkey_id, body.name),
      {
        signedIn: true,
        ...contract(
          { params: model.passkeyParams, body: model.passkeyChanges },
          { 200: model.passkey },
          { summary: 'Rename a passkey', tags, maxBytes, errors: ['passkey.not_found'] },
        ),
      },
    )
    .delete(
      '/passkeys/:passkey_id',
      async ({ context, caller, params, request, status }) => {
        await factors.removePasskey(context, caller, params.passkey_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract(
          { params: model.passkeyParams },
          { 204: noContent },
          {
            summary: 'Remove a passkey',
            tags,
            errors: ['passkey.not_found', 'identity.last_way_in', sensitive],
          },
        ),
      },
    )

export const factorRoutes = (dependencies: Dependencies) =>
  new Elysia().use(signInRoutes(dependencies)).use(totpRoutes(dependencies)).use(passkeyRoutes(dependencies))
