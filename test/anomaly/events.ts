/*
 * What an instance sees of a request. The fields are those that the service knows when it answers; who sent the request in
 * truth stands in `actor`, which no detector may read.
 */

export type Outcome =
  /** Answered. */
  | 'ok'
  /** 403. */
  | 'denied'
  /** 404, or a decision that the resource is not visible. */
  | 'not_found'
  /** 401: the token, key or link is not valid. */
  | 'unauthorized'
  /** A sign-in whose address is unknown or whose password is wrong. */
  | 'failed'

export type TraceEvent = {
  readonly atMs: number
  /** Which of the three instances answers. */
  readonly instance: number
  readonly kind: 'request' | 'sign_in' | 'registration'
  /** The account of the access token. */
  readonly user?: string
  /** The session of the access token. */
  readonly session?: string
  /** The service key. */
  readonly key?: string
  readonly address: string
  readonly country: string
  /** Browser and platform. */
  readonly device: string
  /** The resource that the request names, and whether it belongs to the account. */
  readonly resource?: string
  readonly isOwn?: boolean
  /** The account that a sign-in names. */
  readonly account?: string
  /** Whether there is an account of this name. */
  readonly accountExists?: boolean
  /** Whether the sign-in comes with a device token of the account, or from the network of one of its live sessions. */
  readonly isKnownDevice?: boolean
  readonly outcome: Outcome
  readonly actor: number
}

export const attackKinds = ['stuffing', 'spraying', 'token replay', 'id enumeration', 'scraping'] as const
export type AttackKind = (typeof attackKinds)[number]

export const benignKinds = ['user', 'service key', 'visitor', 'server'] as const
export type BenignKind = (typeof benignKinds)[number]

export type Actor = {
  readonly id: number
  readonly attack: AttackKind | undefined
  readonly benign: BenignKind | undefined
  /** The kind of benign behaviour, for the report of false positives. */
  readonly habit: string
  /** The principal that a detector should flag: an account, a service key or an address. */
  readonly principal: string
  /** Over all instances in turn, or always the same one. */
  readonly isSpread: boolean
}

export type Trace = {
  readonly seed: number
  readonly durationMs: number
  readonly actors: readonly Actor[]
  /** By time. */
  readonly events: readonly TraceEvent[]
  /** Requests of benign accounts, without service keys and visitors. */
  readonly userRequests: number
  /** Addresses that several accounts share. */
  readonly sharedAddresses: ReadonlySet<string>
}

export const instances = 3
export const durationMs = 7_200_000
export const userPrincipal = (user: string) => `user ${user}`
export const keyPrincipal = (key: string) => `key ${key}`
export const addressPrincipal = (address: string) => `address ${address}`
/** Pairs of countries whose networks people change at a border. */
export const areNeighbours = (one: string, other: string): boolean =>
  ['DE FR', 'FR DE', 'DE PL', 'PL DE'].includes(`${one} ${other}`)
