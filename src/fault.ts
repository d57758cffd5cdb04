/**
 * Every way a request can fail: the code is part of the API and never changes its meaning, the status follows from it,
 * and the words are the only ones a caller ever sees. What a code `tells` are figures, members of its problem beside the
 * standard ones (RFC 9457 §3.2), by name.
 */
export const catalogue = {
  'request.malformed': { status: 400, says: 'The request could not be read' },
  'request.invalid': { status: 422, says: 'The request does not fit the schema of this route' },
  'request.idempotency_key_reused': { status: 422, says: 'This Idempotency-Key came with another body before' },
  'request.too_large': { status: 413, says: 'The body is larger than this route takes' },
  'request.media_type_unsupported': { status: 415, says: 'This route takes application/json' },
  'request.timeout': { status: 503, says: 'The request ran out of time', retryAfterS: 1 },
  'route.not_found': { status: 404, says: 'There is no such route' },
  'route.method_not_allowed': { status: 405, says: 'This route does not take that method' },
  'server.failed': { status: 500, says: 'Something failed on our side' },
  'server.stopping': { status: 503, says: 'This instance is shutting down', retryAfterS: 1 },
  'database.unavailable': { status: 503, says: 'The database cannot be reached', retryAfterS: 1 },

  'identity.not_signed_in': { status: 401, says: 'A valid access token is needed' },
  'identity.credentials_wrong': { status: 401, says: 'Email or password is wrong' },
  'identity.password_wrong': { status: 403, says: 'The current password is wrong' },
  'identity.account_suspended': { status: 403, says: 'This account is suspended' },
  'identity.refresh_token_invalid': { status: 401, says: 'The refresh token is not valid' },
  'identity.email_taken': { status: 409, says: 'An account with this email exists' },
  'identity.password_common': { status: 422, says: 'This password is on lists of common passwords' },
  'identity.busy': { status: 503, says: 'Too many sign-ins at this moment', retryAfterS: 1 },
  'user.not_found': { status: 404, says: 'Account does not exist or is closed' },
  'user.deleted': { status: 409, says: 'The account is deleted and stays so' },
  'user.own_account': { status: 409, says: 'Operators do not suspend or demote themselves; another one does' },
  'session.not_found': { status: 404, says: 'Session does not exist or has ended' },

  'team.not_found': { status: 404, says: 'Team does not exist or is not visible to you' },
  'team.role_too_low': { status: 403, says: 'Your role in this team does not reach that far' },
  'team.full': { status: 409, says: 'The team has as many members as it may' },
  'team.max_members_too_low': { status: 409, says: 'The team has more members than that already' },
  'team.owner_cannot_leave': { status: 409, says: 'The owner hands the team over or deletes it' },
  'team.member_not_found': { status: 404, says: 'This person is not a member of the team' },
  'team.already_member': { status: 409, says: 'This person is a member already' },
  'team.invitation_not_found': { status: 404, says: 'Invitation does not exist, is not for you, or is no longer open' },
  'project.grant_not_found': { status: 404, says: 'This team has no grant on the project' },
  'project.grant_exists': { status: 409, says: 'This team has a grant on the project; change that' },
  'project.new_owner_unfit': { status: 422, says: 'The new owner must be able to see the project through a team' },
  'generation.derivatives_not_allowed': { status: 403, says: 'The project does not allow derivatives of this' },
  'generation.too_deep': { status: 422, says: 'The line of ancestors has its full length' },
  'generation.finished': { status: 409, says: 'The generation is over' },
  'generation.too_many_streams': { status: 429, says: 'You have as many streams as you may', retryAfterS: 5 },
  'generation.streams_full': { status: 503, says: 'This instance has as many streams as it may', retryAfterS: 1 },
  'media.not_found': { status: 404, says: 'Media does not exist or is not visible to you' },
  'media.range_not_satisfiable': { status: 416, says: 'There are not so many bytes' },
  'media.link_refused': { status: 403, says: 'This link does not open this' },
  'share_link.not_found': { status: 404, says: 'Share link does not exist or has ended' },
  'share_link.too_many': { status: 409, says: 'This has as many share links as it may' },
  'media.unavailable': { status: 503, says: 'The bytes cannot be had or kept at this moment', retryAfterS: 1 },
  'media.busy': { status: 503, says: 'Too many uploads at this moment', retryAfterS: 1 },
  'media.empty': { status: 422, says: 'There are no bytes' },
  'media.too_large': { status: 413, says: 'The picture has more bytes than are taken' },
  'media.type_not_accepted': { status: 415, says: 'Pictures are taken as PNG, JPEG or WebP' },
  'media.type_contradicted': { status: 422, says: 'The bytes are of another type than Content-Type says' },
  'media.side_too_long': { status: 422, says: 'A side of the picture is longer than is taken' },
  'media.too_many_pixels': { status: 422, says: 'The picture has more pixels than are taken' },
  'media.animated': { status: 422, says: 'The picture moves; only still ones are taken' },
  'media.truncated': { status: 422, says: 'The picture ends before it is complete' },
  'media.trailing_data': { status: 422, says: 'There is something besides the picture' },
  'media.damaged': { status: 422, says: 'The picture cannot be shown' },
  'service_key.not_found': { status: 404, says: 'Service key does not exist' },
  'service_key.scope_missing': { status: 403, says: 'This service key lacks the scope for that' },
  'authorization.not_about_others': { status: 403, says: 'A person may ask about itself only' },
  'access.denied': { status: 403, says: 'You may see this but not do that to it' },
  'access.services_only': { status: 403, says: 'This is for services, with a key of their own' },
  'access.admins_only': { status: 403, says: 'This is for operators of the platform' },
  'model.not_found': { status: 404, says: 'Model does not exist' },
  'model.unavailable': { status: 409, says: 'This deployment has nobody to run that model' },
  'credits.insufficient': {
    status: 402,
    says: 'The balance does not cover the price',
    tells: { missing: 'Credits that the balance is short of', balance: 'Credits', price: 'Credits it would have cost' },
  },
  'project.not_found': { status: 404, says: 'Project does not exist or is not visible to you' },
  'generation.not_found': { status: 404, says: 'Generation does not exist or is not visible to you' },
} as const satisfies Record<string, Entry>

type Entry = { status: number; says: string; retryAfterS?: number; tells?: Readonly<Record<string, string>> }

export type FaultCode = keyof typeof catalogue

/** The figures a code tells, each with what it is. */
export const extensionsOf = (code: FaultCode): Readonly<Record<string, string>> =>
  (catalogue[code] as Entry).tells ?? {}

/** The figures that a fault of this code has to come with. */
type Extensions<C extends FaultCode> = (typeof catalogue)[C] extends { tells: infer Names }
  ? { readonly tells: Readonly<Record<keyof Names, number>> }
  : { readonly tells?: never }

/** What is wrong with one place of the input; `pointer` is a JSON Pointer (RFC 6901) into the part it names. */
export type InputProblem = {
  readonly in: 'body' | 'query' | 'params' | 'headers'
  readonly pointer: string
  readonly detail: string
}

type FaultOptions<C extends FaultCode> = Extensions<C> & {
  /** For the log alone. */
  detail?: Readonly<Record<string, unknown>>
  cause?: unknown
  /** Shown to the caller, so it must not repeat the input. */
  problems?: readonly InputProblem[]
  headers?: Readonly<Record<string, string>>
}

/**
 * A failure with two audiences: the words of the catalogue go out, with the figures its code tells; `detail` and `cause`
 * go to the log.
 */
export class Fault<C extends FaultCode = FaultCode> extends Error {
  override readonly name = 'Fault'
  readonly code: C
  readonly extensions: Readonly<Record<string, number>> | undefined
  readonly detail: Readonly<Record<string, unknown>> | undefined
  readonly problems: readonly InputProblem[] | undefined
  readonly headers: Readonly<Record<string, string>> | undefined

  constructor(code: C, ...given: Extensions<C> extends { tells: object } ? [FaultOptions<C>] : [FaultOptions<C>?]) {
    const options: Partial<FaultOptions<C>> = given[0] ?? {}
    super(code, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.extensions = options.tells
    this.detail = options.detail
    this.problems = options.problems
    this.headers = options.headers
  }

  get status(): number {
    return catalogue[this.code].status
  }
}

/** One place of the input that is wrong in a way no schema can tell. */
export const invalidInput = (place: InputProblem['in'], pointer: string, detail: string): Fault =>
  new Fault('request.invalid', { problems: [{ in: place, pointer, detail }] })

/** The body of RFC 9457, as sent with `application/problem+json`; what the code tells comes on top. */
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
  409: 'Conflict',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  416: 'Range Not Satisfiable',
  422: 'Unprocessable Content',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}

export const toProblem = (fault: Fault, instance: string, requestId: string): Problem => {
  const { status, says } = catalogue[fault.code]
  return {
    type: `urn:velro:problem:${fault.code}`,
    title: titles[status] ?? 'Error',
    status,
    detail: says,
    instance,
    code: fault.code,
    request_id: requestId,
    ...fault.extensions,
    ...(fault.problems && { errors: fault.problems }),
  }
}
