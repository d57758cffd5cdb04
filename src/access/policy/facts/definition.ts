import { type TSchema, Type as t } from '@sinclair/typebox'

/**
 * Declares one kind of fact, once, for everything that handles facts: the loader, the Redis codec, the resource walk,
 * invalidation and the stale detector.
 */
export type FactDefinition<K extends string = string, F = unknown> = {
  readonly kind: K
  /** What the Redis codec accepts. An entry that does not match is a miss. */
  readonly schema: TSchema & { readonly static: F }
  /** The table it is read from. Its triggers invalidate the fact. */
  readonly table: string
  /** The columns of the table whose change invalidates the fact. A test compares them with the triggers. */
  readonly columns: readonly string[]
  /** Absent for facts that are not one row found by its primary key. */
  readonly row?: RowSource<F>
  /** Set for facts that are made of any number of rows. */
  readonly value?: ValueSource<F>
  /** Set for kinds that describe a resource: which further facts a question about it needs. */
  readonly needs?: readonly Need<F>[]
  /** Set for kinds whose facts are parts of a larger fact, their whole. */
  readonly part?: Part<F>
  /**
   * What the stale detector compares, given the other side. Default: the fact itself. Facts that give every decision the
   * same answer must compare equal, or a difference without an invalidation raises a false alarm.
   */
  comparable?(fact: F, other: F | null, nowMs: number): unknown
  /** Its values stay out of logs. */
  readonly secret?: true
  /** Its values stay out of Redis: the second tier neither stores such facts nor looks for them. */
  readonly memoryOnly?: true
  /**
   * One small row that every request needs. Memory answers for it under a lease with the tier `l1` off too: else each request read
   * it from Postgres alone.
   */
  readonly heldWithoutL1?: true
  /** Bytes in memory beyond those of a small object. */
  extraBytes?(fact: F): number
}

/** How a fact is read from one row. `Row` are the result columns that `toFact` reads; all kinds share one result row. */
export type RowSource<F, Row = never> = {
  readonly alias: string
  /** SQL expression of each result column, over `alias` and `join`. */
  readonly select: Readonly<Record<keyof Row & string, string>>
  /** One more joined table. Its columns must never change, because no trigger of it invalidates the fact. */
  readonly join?: string
  /** Rows that a load of this one reads too, by the column that names them. */
  readonly references?: readonly { readonly definition: FactDefinition; readonly column: string }[]
  toFact(row: Row): F
}

/** How a fact is read from any number of rows. It is never absent: without rows it has an empty value. */
export type ValueSource<F, V = never> = {
  /** SQL expression of the type json, over the id of the fact, `w.id`. */
  readonly select: string
  toFact(value: V): F
}

/** A link to a fact that a question about a resource needs too. */
export type Need<F> = {
  readonly definition: ResourceDefinition
  /** Both facts have one id, so the needed one can be looked up together with the other. */
  readonly sharesId?: true
  /** The id of the needed fact; null where no answer can depend on it. A part is needed only where there is a user. */
  idFor(fact: F, id: string, userId: string | null): string | null
}

/**
 * How a fact is contained in a larger one. The *part* is a fact about one user and one resource (`grant`: what the user may do
 * in one project). Its *whole* is the fact with all such parts of that user (`grants`: the same for every project).
 *
 * A part is read out of its whole, and is a cache entry by itself only where the whole is too large for one fact.
 * Invalidating a part leaves the whole usable for the other parts; invalidating a whole invalidates every part.
 */
export type Part<F, W = unknown> = {
  readonly whole: FactDefinition<string, W>
  /** The kind of resource whose id names the part within the whole. */
  readonly namedBy: string
  /** The part. `excluded`: it has changed since the whole was loaded. `separate`: it is a cache entry by itself. */
  read(whole: W, id: string): F | 'excluded' | 'separate'
  /** The whole with this part marked as excluded; undefined where too many are, and the whole has to be loaded again. */
  exclude(whole: W, id: string): W | undefined
}

export type ResourceDefinition<K extends string = string, F = unknown> = FactDefinition<K, F> & {
  readonly needs: readonly Need<F>[]
}

export const uuid = t.String({ minLength: 36, maxLength: 36 })
export const oneOf = <V extends string>(values: readonly V[]) => t.Union(values.map((value) => t.Literal(value)))
export const exactly = <P extends Record<string, TSchema>>(properties: P) =>
  t.Object(properties, { additionalProperties: false })
export const orNull = <T extends TSchema>(schema: T) => t.Union([schema, t.Null()])
