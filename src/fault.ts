/**
 * Every way in which a request can fail. A code is part of the API and never changes its meaning; the status follows from
 * the code; a caller sees no other message. `extensions` are the figures that a problem of this code carries beside the
 * standard members (RFC 9457 §3.2), each with its description; one with `members` is a list of objects that have these
 * members, all of them text, and one with `text` is a text or a list of texts. `fromRequest` are members that the error handler
 * adds, because they follow from the request and not from the failure. `type` is a problem type that is registered elsewhere.
 * `{name}` in a message stands for the figure of that name.
 *
 * One table, in areas: it is the list of everything a client must handle, and the OpenAPI document is made of it.
 */
export const catalogue = {
  // What any request can meet
  'request.malformed': { status: 400, message: 'The request could not be read' },
  'request.host_invalid': {
    status: 400,
    message:
      'The request must have exactly one Host header, and it must be a host name or an address with an optional port',
  },
  'request.invalid': { status: 422, message: 'The request does not match the schema of this route; see `errors`' },
  'request.idempotency_key_reused': {
    status: 422,
    message: 'This Idempotency-Key was already used with a different body; send a new key',
  },
  'request.origin_refused': {
    status: 403,
    message:
      'A request with cookies that changes anything must have an Origin that is this service or named in CORS_ORIGINS without a wildcard',
  },
  'request.too_large': {
    status: 413,
    message: 'The request body is larger than {max_bytes} bytes',
    extensions: { max_bytes: 'Largest body that the route accepts, in bytes' },
  },
  'request.media_type_unsupported': {
    status: 415,
    message: 'This route accepts only bodies of the type application/json',
  },
  'request.encoding_unsupported': {
    status: 415,
    message: 'Request bodies must have no Content-Encoding; see the Accept-Encoding header',
  },
  'request.precondition_failed': {
    status: 412,
    message: 'The entity tag of the file must be one that If-Match names',
  },
  'request.timeout': {
    status: 503,
    message: 'The request took too long and was given up; try again',
    retryAfterS: 1,
  },
  'request.outcome_unknown': {
    status: 503,
    message:
      'The database has not confirmed this change, which may have been made; repeat the request with the same Idempotency-Key, or read the resource, to learn the outcome',
  },
  'route.not_found': { status: 404, message: 'No route has this path' },
  'route.method_not_allowed': { status: 405, message: 'This route does not support the method; see the Allow header' },
  'limit.exceeded': {
    status: 429,
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    message:
      'The budget {budget} of {limit} units in {window_seconds} s is used up; try again in {retry_after_seconds} s',
    extensions: {
      budget: { text: 'one', description: 'The budget that is used up' },
      limit: 'Units of the budget in each window',
      window_seconds: 'Length of the window, in seconds',
      retry_after_seconds: 'When to try again, in seconds, as in Retry-After',
      'violated-policies': { text: 'list', description: 'The same budget, as it is named in RateLimit-Policy' },
    },
  },
  'limit.unavailable': {
    status: 503,
    message: 'The limits in Redis cannot be reached; try again',
    retryAfterS: 1,
  },
  'server.failed': { status: 500, message: 'An internal error occurred' },
  'server.stopping': { status: 503, message: 'This instance is shutting down; try again', retryAfterS: 1 },
  'server.overloaded': {
    status: 503,
    message: 'The server has more work than it can do in time, and has not begun with this request; try again',
    retryAfterS: 1,
  },
  'mode.no_register': {
    status: 503,
    message: 'New accounts cannot be registered for the time being; try again later',
    retryAfterS: 60,
  },
  'mode.read_only': {
    status: 503,
    message:
      'The service is read-only for the time being, and takes only changes that take access away; try again later',
    retryAfterS: 60,
  },
  'mode.lockdown': {
    status: 503,
    message: 'The service is locked down for the time being, and open to its operators alone; try again later',
    retryAfterS: 60,
  },
  'database.unavailable': { status: 503, message: 'The database cannot be reached; try again', retryAfterS: 1 },
  'breaker.cannot_be_held_open': {
    status: 409,
    message: 'The breaker of Postgres cannot be held open, because nobody could sign in to close it again',
  },
  'bus.mismatch': {
    status: 503,
    message: 'The database of this change is not the one that the instances listen to; nothing was changed; try again',
    retryAfterS: 1,
  },

  // Accounts and sessions
  'identity.not_signed_in': {
    status: 401,
    message: 'A valid access token is required',
    fromRequest: {
      credential: {
        text: 'one',
        description:
          '`missing`: the request had no token, key or cookie that counts. `invalid`: it had one that is not valid, has expired, or whose session has ended; refresh, or sign in again',
      },
    },
  },
  'identity.credentials_wrong': { status: 401, message: 'The e-mail address or the password is wrong' },
  'identity.password_wrong': { status: 403, message: 'The current password is wrong' },
  'identity.password_missing': {
    status: 403,
    message: 'Authenticating again requires the password, or a passkey',
  },
  'identity.second_factor_missing': {
    status: 403,
    message: 'This account has a second factor; present it too: a code, a recovery code or a passkey',
  },
  'identity.second_factor_wrong': {
    status: 403,
    message: 'The code, the recovery code or the passkey is wrong, or was used before',
  },
  'identity.sign_in_expired': {
    status: 401,
    message: 'This sign-in was completed, or began more than {max_age_seconds} seconds ago; sign in again',
    extensions: { max_age_seconds: 'How long after its first step a sign-in can be completed, in seconds' },
  },
  'identity.last_way_in': {
    status: 409,
    message: 'Without this the account could not be signed in to any more; set a password or add another passkey first',
  },
  'identity.account_suspended': { status: 403, message: 'This account is suspended' },
  'identity.refresh_token_invalid': { status: 401, message: 'The refresh token is not valid; sign in again' },
  'identity.email_taken': { status: 409, message: 'An account with this e-mail address already exists' },
  'identity.password_common': {
    status: 422,
    message: 'This password is on a list of common passwords; choose another one',
  },
  'identity.password_predictable': {
    status: 422,
    message:
      'This password is too close to your e-mail address or the name of this service; without those words it must still have 8 characters and not be common',
  },
  'identity.password_breached': {
    status: 422,
    message: 'This password was found in a data breach of another service; choose another one',
  },
  'identity.email_not_verified': {
    status: 403,
    message:
      'The e-mail address of this account must be verified first; POST /api/v1/auth/verify-email sends the mail again',
  },
  'one_time_token.not_found': { status: 404, message: 'The link does not exist, or is for something else' },
  'one_time_token.gone': { status: 410, message: 'The link was used already, or has expired; ask for a new one' },
  'mail.not_configured': {
    status: 503,
    message: 'This needs a mail, and this deployment sends none; an operator must set SMTP_URL',
  },
  'identity.busy': { status: 503, message: 'The server is handling too many sign-ins; try again', retryAfterS: 1 },
  'identity.sign_in_paused': {
    status: 429,
    message:
      'Too many attempts on this account have failed; those of this device are refused for another {retry_after_seconds} seconds, with the right password too',
    extensions: { retry_after_seconds: 'Seconds until the next attempt is verified' },
  },
  'identity.export_under_way': {
    status: 429,
    message: 'An export of your account is under way, or many are on this instance; wait for one to end',
    retryAfterS: 30,
  },
  'identity_provider.not_found': { status: 404, message: 'No identity provider of this name is configured' },
  'identity_provider.state_invalid': {
    status: 400,
    message: 'This sign-in did not begin in this browser within the last 10 minutes; begin again',
  },
  'identity_provider.ticket_invalid': {
    status: 400,
    message: 'The address must be opened within a minute after it was given out; ask for another one',
  },
  'identity_provider.code_invalid': {
    status: 400,
    message: 'The code is unknown, older than 10 minutes, for something else, or not of this client; begin again',
  },
  'identity_provider.code_used': { status: 410, message: 'The code was used before; begin again' },
  'identity_provider.email_unverified': {
    status: 403,
    message: 'The provider has not verified your e-mail address; verify it there first',
  },
  'identity_provider.account_exists': {
    status: 409,
    message:
      'An account with this e-mail address exists; sign in to it as before, and link this identity in its settings',
  },
  'linked_identity.not_found': { status: 404, message: 'No identity with this id is linked to your account' },
  'linked_identity.taken': { status: 409, message: 'This identity is linked to an account already' },
  'linked_identity.too_many': {
    status: 409,
    message: 'Your account already has {limit} linked identities; unlink one first',
    extensions: { limit: 'Identities that can be linked to an account' },
  },
  'linked_identity.address_unverified': {
    status: 403,
    message: 'Verify the e-mail address of your account first, or link an identity that has the same address',
  },
  'linked_identity.last_way_in': {
    status: 409,
    message: 'This identity is the last way to sign in to your account; set a password or link another identity first',
  },
  'identity.owns_teams': {
    status: 409,
    message: 'You own teams that have other members; transfer or delete those listed in `teams` first',
    extensions: {
      teams: {
        description: 'The teams to transfer or delete, at most 100',
        members: { id: 'Team', name: 'Name of the team' },
      },
    },
  },
  'second_factor.none': {
    status: 409,
    message: 'The account has no second factor; set up an authenticator app or a passkey first',
  },
  'totp.already_enabled': { status: 409, message: 'An authenticator app is set up already; remove it first' },
  'totp.not_started': { status: 409, message: 'Start the set-up of the authenticator app first' },
  'totp.not_found': { status: 404, message: 'No authenticator app is set up' },
  'passkey.refused': { status: 401, message: 'This passkey is not known here, or its response is not valid' },
  'passkey.response_invalid': {
    status: 400,
    message: 'The response of the authenticator is not valid, or answers other options than the latest ones',
  },
  'passkey.not_found': { status: 404, message: 'The passkey does not exist' },
  'passkey.known': { status: 409, message: 'This passkey is registered already' },
  'passkey.too_many': {
    status: 409,
    message: 'The account already has {limit} passkeys; remove one first',
    extensions: { limit: 'Passkeys that an account may have' },
  },
  'passkey.not_configured': {
    status: 503,
    message: 'Passkeys are not set up on this deployment: its operator has to set PASSKEY_DOMAIN',
  },
  'user.not_found': { status: 404, message: 'The account does not exist or is deleted' },
  'user.deleted': { status: 409, message: 'The account is deleted and cannot be changed' },
  'user.suspended': { status: 409, message: 'The account is suspended; lift the suspension first' },
  'user.has_password': {
    status: 409,
    message: 'The account has a password already; its owner resets a forgotten one, or an operator does',
  },
  'user.own_account': {
    status: 409,
    message: 'Operators cannot suspend or demote their own account; ask another operator',
  },
  'session.reauthentication_required': {
    status: 401,
    message: 'You must sign in, or authenticate again with POST /api/v1/auth/reauthenticate; `reason` says why',
    extensions: {
      max_age_seconds:
        'How long after an authentication such a request is accepted, in seconds; 0: once you have authenticated from where you are now',
      reason: {
        text: 'one',
        description:
          '`age`: you last signed in or authenticated again more than `max_age_seconds` ago. `context`: the request comes from another place or another device than its session was opened with',
      },
    },
  },
  'session.not_found': { status: 404, message: 'The session does not exist or has ended' },

  // What an account may hold
  'quota.stored_bytes': {
    status: 409,
    message:
      '{used} bytes of your {limit} are stored or reserved by unfinished generations, and {needed} more do not fit; delete media first',
    extensions: {
      limit: 'Bytes that the account may store',
      used: 'Bytes that are stored, or reserved by unfinished generations',
      needed: 'Bytes that the upload has, or that the outputs of the generation may have',
    },
  },
  'quota.jobs_under_way': {
    status: 429,
    message:
      'You already have {used} generations that are queued or processing, of at most {limit}; wait for one to end',
    retryAfterS: 5,
    extensions: {
      limit: 'Generations of the account that may be queued or processing at once',
      used: 'Generations of the account that are queued or processing',
    },
  },
  'quota.projects': {
    status: 409,
    message: 'You already own {used} projects, of at most {limit}; delete or transfer one first',
    extensions: { limit: 'Projects that the account may own', used: 'Projects that the account owns' },
  },
  'quota.teams': {
    status: 409,
    message: 'You already own {used} teams, of at most {limit}; delete or transfer one first',
    extensions: { limit: 'Teams that the account may own', used: 'Teams that the account owns' },
  },
  'quota.team_members': {
    status: 409,
    message: 'The team already has {used} members, and its owner may have at most {limit} in a team',
    extensions: { limit: 'Members that a team of its owner may have', used: 'Members that the team has' },
  },

  // What a caller may do
  'access.denied': { status: 403, message: 'You can read this resource, but you may not do this to it' },
  'access.blocked': {
    status: 403,
    message: 'Requests from this address, account or service key are blocked for the time being',
  },
  'access.services_only': { status: 403, message: 'This route requires a service key' },
  'access.people_only': {
    status: 403,
    message: 'Service keys are not accepted by this route: a person must sign in for it',
  },
  'access.admins_only': { status: 403, message: 'This route is for operators of the platform' },
  'authorization.not_about_others': {
    status: 403,
    message: 'With an access token you can only ask about your own account',
  },
  'service_key.not_found': { status: 404, message: 'The service key does not exist' },
  'service_key.scope_missing': { status: 403, message: 'This service key lacks the scope that this route requires' },
  'service_key.expired': { status: 401, message: 'This service key has expired' },
  'service_key.network_refused': {
    status: 403,
    message: 'This service key may be used only from its allowed networks, and the request comes from another one',
  },
  'service_key.user_not_active': {
    status: 403,
    message:
      'The user in the Velro-User header must have an active account, and a verified e-mail address where signing in needs one',
  },

  // Teams and projects
  'team.not_found': { status: 404, message: 'The team does not exist or is not visible to you' },
  'team.role_too_low': { status: 403, message: 'Your role in this team does not permit this' },
  'team.full': {
    status: 409,
    message: 'The team already has its maximum of {max_members} members',
    extensions: { max_members: 'Most members that the team may have' },
  },
  'team.max_members_too_low': {
    status: 409,
    message: 'The team has {members} members; max_members cannot be lower than that',
    extensions: { members: 'Members that the team has' },
  },
  'team.second_factor_required': {
    status: 403,
    message: 'This team requires that its members have a second factor; set one up first',
  },
  'team.owner_cannot_leave': {
    status: 409,
    message: 'The owner cannot leave the team; transfer or delete the team instead',
  },
  'team.new_owner_full': { status: 409, message: 'The new owner already owns the maximum number of teams' },
  'team.new_owner_inactive': { status: 409, message: 'The account of the new owner must be active' },
  'team.member_not_found': { status: 404, message: 'This person is not a member of the team' },
  'team.already_member': { status: 409, message: 'This person is already a member of the team' },
  'team.invitation_gone': {
    status: 410,
    message: 'The invitation was accepted, declined or cancelled already, or has expired',
  },
  'team.invitation_not_found': {
    status: 404,
    message: 'The invitation does not exist, is not for you, or is no longer open',
  },
  'project.grant_not_found': { status: 404, message: 'This team has no grant on the project' },
  'project.grant_exists': {
    status: 409,
    message: 'This team already has a grant on the project; change that grant instead',
  },
  'project.new_owner_unfit': {
    status: 422,
    message: 'The new owner must have access to the project through a team',
  },
  'project.new_owner_full': { status: 409, message: 'The new owner already owns the maximum number of projects' },
  'project.not_found': { status: 404, message: 'The project does not exist or is not visible to you' },

  // Generations, models and credits
  'generation.derivatives_not_allowed': {
    status: 403,
    message: 'The project of the parent does not allow derivatives',
  },
  'generation.too_deep': {
    status: 422,
    message: 'The parent already has the maximum of {max_depth} ancestors',
    extensions: { max_depth: 'Most ancestors that a generation may have' },
  },
  'generation.finished': { status: 409, message: 'The generation has already finished' },
  'generation.too_many_streams': {
    status: 429,
    message: 'You already have the maximum of {limit} open streams; close one first',
    retryAfterS: 5,
    extensions: {
      limit:
        'Most streams that may be open at once: by default 16 of one session; of one account 64, but no more than an eighth of those that the instance has left',
    },
  },
  'generation.too_many_streams_from_address': {
    status: 429,
    message: 'Your address already has the maximum of {limit} open streams; try again when some are closed',
    retryAfterS: 5,
    extensions: {
      limit:
        'Most streams from one IPv4 address or IPv6 /64 network that may be open at once: by default 256, but no more than the greater of 16 and a quarter of those that the instance has left',
    },
  },
  'generation.streams_full': {
    status: 503,
    message: 'This instance already has its maximum of {limit} open streams; try again',
    retryAfterS: 1,
    extensions: { limit: 'Most streams that one instance keeps open' },
  },
  'performance.streams_full': {
    status: 503,
    message: 'This instance already has its maximum of {limit} open streams of figures; try again',
    retryAfterS: 5,
    extensions: { limit: 'Most streams of figures that one instance keeps open' },
  },
  'generation.stream_ticket_refused': {
    status: 403,
    message: 'This ticket is not valid for the stream of this generation, has expired, or was used; ask for a new one',
  },
  'generation.not_found': { status: 404, message: 'The generation does not exist or is not visible to you' },
  'model.not_found': { status: 404, message: 'The model does not exist' },
  'model.unavailable': { status: 409, message: 'This deployment has no provider configured for the model' },
  'credits.insufficient': {
    status: 402,
    message: 'The price is {price} credits, but the balance is {balance}',
    extensions: {
      missing: 'Credits missing from the balance',
      balance: 'Credits on the account',
      price: 'Price in credits',
    },
  },

  // Incidents
  'incident.not_found': { status: 404, message: 'The incident does not exist' },
  'incident.closed': { status: 409, message: 'The incident is closed and cannot be changed' },
  'incident.assignee_unfit': { status: 409, message: 'The assignee must be an operator with an active account' },

  // Feature flags
  'feature_flag.not_found': { status: 404, message: 'The feature flag does not exist' },
  'feature_flag.version_not_found': {
    status: 409,
    message: 'The feature flag has no such version, or no version before the one in force; the last 50 are kept',
  },
  'feature_flag.changed': {
    status: 409,
    message: 'Another version of the feature flag is in force than `current_version`; read it again',
  },
  'feature_flag.too_many': {
    status: 409,
    message: 'There are already {limit} feature flags, the most that are possible; remove one first',
    extensions: { limit: 'Most feature flags that there may be' },
  },

  // Restrictions that operators set
  'block.not_found': { status: 404, message: 'The block does not exist, or has ended' },
  'block.exists': { status: 409, message: 'This is blocked already; remove that block first to change it' },
  'block.own_address': { status: 409, message: 'The block would hold the address that you call from' },
  'block.own_account': { status: 409, message: 'Operators cannot block their own account' },
  'block.too_many': {
    status: 409,
    message:
      'There are already {limit} blocked addresses and networks; remove some, or block a network that holds several',
    extensions: { limit: 'Most addresses and networks that can be blocked at once' },
  },

  // Webhooks
  'webhook.not_found': { status: 404, message: 'The webhook does not exist' },
  'audit.head_foreign': { status: 422, message: 'The head was not signed by this service' },
  'webhook.too_many': {
    status: 409,
    message: 'There are already {limit} webhooks, the most that are possible here; remove one first',
    extensions: { limit: 'Most webhooks that the operators, or one team, may have' },
  },
  'webhook.delivery_not_found': { status: 404, message: 'No event with this id was recorded for the webhook' },

  // Media and links to it
  'media.not_found': { status: 404, message: 'The media does not exist or is not visible to you' },
  'media.range_not_satisfiable': {
    status: 416,
    message: 'The requested range starts beyond the end of the file ({size} bytes)',
    extensions: { size: 'Size of the file in bytes' },
  },
  'media.link_refused': { status: 403, message: 'This link is not valid for this media, or is no longer valid' },
  'media.unavailable': { status: 503, message: 'The media storage cannot be reached; try again', retryAfterS: 1 },
  'media.busy': { status: 503, message: 'The server is handling too many uploads; try again', retryAfterS: 1 },
  'media.too_many_uploads': {
    status: 429,
    message: 'You already have the maximum of {limit} uploads under way; wait for one to end',
    retryAfterS: 5,
    extensions: { limit: 'Most uploads of one account that may be under way at once' },
  },
  'media.too_slow': {
    status: 408,
    message:
      'The upload was too slow; its bytes must arrive at {min_bytes_per_second} bytes per second, or faster while other uploads wait, and all of them within {max_seconds} seconds',
    extensions: {
      min_bytes_per_second: 'Lowest rate at which the body must arrive, over any 5 seconds',
      max_seconds: 'Longest time that the body may take, in seconds',
    },
  },
  'media.empty': { status: 422, message: 'The request body is empty' },
  'media.too_large': {
    status: 413,
    message: 'The image is larger than {max_bytes} bytes',
    extensions: { max_bytes: 'Largest image that is accepted, in bytes' },
  },
  'media.type_not_accepted': {
    status: 415,
    message: 'Only PNG, JPEG and WebP images are accepted, as the body or as the file of a multipart/form-data body',
  },
  'media.type_contradicted': { status: 422, message: 'The bytes are not of the type that Content-Type names' },
  'media.side_too_long': {
    status: 422,
    message: 'The image is wider or higher than {max_side} pixels',
    extensions: { max_side: 'Largest width and height that is accepted, in pixels' },
  },
  'media.too_many_pixels': {
    status: 422,
    message: 'The image has more than {max_pixels} pixels',
    extensions: { max_pixels: 'Most pixels that are accepted: width times height' },
  },
  'media.animated': { status: 422, message: 'Animated images are not accepted' },
  'media.truncated': { status: 422, message: 'The image file ends before the image is complete' },
  'media.trailing_data': {
    status: 422,
    message: 'Another document follows the image; only padding, the trailer of a camera or declared pictures may',
  },
  'media.damaged': { status: 422, message: 'The image is damaged and cannot be decoded' },
  'share_link.not_found': { status: 404, message: 'The share link does not exist or is no longer valid' },
  'share_link.too_many': {
    status: 409,
    message: 'This media already has the maximum of {limit} share links; revoke one first',
    extensions: { limit: 'Most valid share links that one media may have' },
  },
} as const satisfies Record<string, Entry>

type Entry = {
  status: number
  message: string
  retryAfterS?: number
  type?: string
  extensions?: Readonly<Record<string, Extension>>
  fromRequest?: Readonly<Record<string, Extension>>
}

/** The description of a figure, a list of objects whose members are text, a text, or a list of texts. */
type Extension =
  | string
  | { readonly description: string; readonly members: Readonly<Record<string, string>> }
  | { readonly description: string; readonly text: 'one' | 'list' }
type ExtensionValue<E> = E extends { readonly members: infer Members }
  ? readonly { readonly [Name in keyof Members]: string }[]
  : E extends { readonly text: 'one' }
    ? string
    : E extends { readonly text: 'list' }
      ? readonly string[]
      : number

export type FaultCode = keyof typeof catalogue

const entryOf = (code: FaultCode): Entry => catalogue[code]

const typeOf = (code: FaultCode): string => entryOf(code).type ?? `urn:velro:problem:${code}`

/** The extension members of a code, by name. */
export const extensionsOf = (code: FaultCode): Readonly<Record<string, Extension>> => ({
  ...entryOf(code).extensions,
  ...entryOf(code).fromRequest,
})

/** The figures and lists that a fault of this code must be given. */
type Extensions<C extends FaultCode> = (typeof catalogue)[C] extends { extensions: infer Names }
  ? { readonly extensions: { readonly [Name in keyof Names]: ExtensionValue<Names[Name]> } }
  : { readonly extensions?: never }

/** One error in the input; `pointer` is a JSON Pointer (RFC 6901) into the part of the request that `in` names. */
export type InputProblem = {
  readonly in: 'body' | 'query' | 'params' | 'headers'
  readonly pointer: string
  readonly detail: string
}

type FaultOptions<C extends FaultCode> = Extensions<C> & {
  /** For the log only. */
  detail?: Readonly<Record<string, unknown>>
  cause?: unknown
  /** Sent to the caller, so they must not repeat the input. */
  problems?: readonly InputProblem[]
  headers?: Readonly<Record<string, string>>
}

/**
 * A failure with two audiences: the caller gets the message of the catalogue and the extension members; `detail` and
 * `cause` go to the log.
 */
export class Fault<C extends FaultCode = FaultCode> extends Error {
  override readonly name = 'Fault'
  readonly code: C
  readonly extensions: Readonly<Record<string, unknown>> | undefined
  readonly detail: Readonly<Record<string, unknown>> | undefined
  readonly problems: readonly InputProblem[] | undefined
  readonly headers: Readonly<Record<string, string>> | undefined

  constructor(
    code: C,
    ...given: Extensions<C> extends { extensions: object } ? [FaultOptions<C>] : [FaultOptions<C>?]
  ) {
    const options: Partial<FaultOptions<C>> = given[0] ?? {}
    super(code, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.extensions = options.extensions
    this.detail = options.detail
    this.problems = options.problems
    this.headers = options.headers
  }

  get status(): number {
    return catalogue[this.code].status
  }
}

/** An error in the input that a schema cannot express. */
export const invalidInput = (place: InputProblem['in'], pointer: string, detail: string): Fault =>
  new Fault('request.invalid', { problems: [{ in: place, pointer, detail }] })

/** The body of RFC 9457, as sent with `application/problem+json`; the extension members of the code are added to it. */
export type Problem = {
  type: string
  title: string
  status: number
  detail: string
  instance: string
  code: FaultCode
  request_id: string
  errors?: readonly InputProblem[]
}

export const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  402: 'Payment Required',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  410: 'Gone',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  416: 'Range Not Satisfiable',
  422: 'Unprocessable Content',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}

/** The message of a fault, its figures filled in. */
const messageOf = ({ code, extensions = {} }: Fault): string =>
  entryOf(code).message.replace(/\{(\w+)\}/g, (_, name: string) => String(extensions[name]))

/** `fromRequest`: the members that the code has by that name in the catalogue. */
export const toProblem = (
  fault: Fault,
  instance: string,
  requestId: string,
  fromRequest?: Readonly<Record<string, unknown>>,
): Problem => {
  const { status } = fault
  return {
    type: typeOf(fault.code),
    title: titles[status] ?? 'Error',
    status,
    detail: messageOf(fault),
    instance,
    code: fault.code,
    request_id: requestId,
    ...fault.extensions,
    ...fromRequest,
    ...(fault.problems && { errors: fault.problems }),
  }
}
