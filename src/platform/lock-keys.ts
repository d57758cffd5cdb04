/**
 * The keys of all advisory locks: any numbers, as long as they differ and all instances use the same.
 *
 * Locks that SQL functions take have their key in `sql/functions/constants.sql`; a test compares it with this register.
 */
export const lockKeys = {
  /** Held while the schema is migrated. */
  migrations: 7_301_950_216,
  /** Held while signing keys are added. */
  signingKeys: 7_301_950_217,
  /** Hash seed: held while the effective access of one user, or to one project, changes; shared by writes it decides. */
  userAccessSeed: 7_301_950_218,
  /** Hash seed: held while what an account holds is counted and grows. */
  usageSeed: 7_301_950_219,
  /** Held while a webhook of the operators is added. */
  operatorWebhooks: 7_301_950_220,
  /** Hash seed: held while a service key is revoked; shared by the writes of services that act with it. */
  serviceKeySeed: 7_301_950_221,
  /** Held while a feature flag is changed. */
  featureFlags: 7_301_950_229,
  /** Held while events of the audit log are linked. */
  auditChain: 7_301_950_222,
  /** Held while events are made of the denied decisions of a minute. */
  auditDenials: 7_301_950_231,
  /** Held while the mode of the service changes; shared by registrations. */
  mode: 7_301_950_230,
  /** First half of a key of two integers; the second is the hash of the view's name. Held while that view is refreshed. */
  viewRefresh: 730_195_021,
} as const
