import { randomBytes } from 'node:crypto'
import { sessionLife } from '../../identity/session-rules.ts'
import { createSessionTokens, refreshTokenLength } from '../../identity/session-tokens.ts'
import { createSigningKeys } from '../../identity/signing-keys.ts'
import { createIdentityStore } from '../../identity/store.ts'
import { encodeBase64url } from '../../kit/base64url.ts'
import { systemClock } from '../../kit/clock.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { newId } from '../../kit/id.ts'
import type { Sql } from '../../platform/postgres.ts'
import { createSecrets, sha256 } from '../../platform/secrets.ts'
import type { TokenPolicy } from '../../platform/tokens.ts'

/** An account with a session and its tokens, as a sign-in returns them. */
export type SignedIn = {
  readonly user_id: string
  readonly email: string | null
  readonly access_token: string
  readonly refresh_token: string
}

const withinMs = 60_000
const agent = {
  user_agent: 'velro seed',
  address: '127.0.0.1',
  country: null,
  network_hash: null,
  browser: null,
  platform: null,
}

/** Opens a session for each of these accounts without a password: the secret of the service signs its tokens. */
export const signIn = async (
  sql: Sql,
  {
    secret,
    previousSecret,
    policy,
    maxTokenTtlMs,
  }: { secret: string; previousSecret?: string | undefined; policy: TokenPolicy; maxTokenTtlMs: number },
  userIds: readonly string[],
): Promise<SignedIn[]> => {
  const clock = systemClock
  const secrets = createSecrets(secret, previousSecret)
  const store = createIdentityStore(sql)
  const keys = createSigningKeys({ store, secrets, clock, maxTokenTtlMs })
  await keys.refresh()
  const tokens = createSessionTokens({ keys, secrets, policy, clock, maxCachedTokens: 1 })
  const startDeadline = createDeadlines(clock)
  const signedIn: SignedIn[] = []
  await sql.begin(async (tx) => {
    for (const userId of userIds) {
      const user = await store.findUser(startDeadline(withinMs), userId, tx)
      if (user === undefined) throw new Error(`There is no account ${userId}`)
      const nowMs = clock.now()
      const refreshToken = randomBytes(refreshTokenLength)
      const session = {
        ...agent,
        id: newId(),
        user_id: userId,
        created_at: new Date(nowMs),
        last_seen_at: new Date(nowMs),
        idle_expires_at: new Date(nowMs + sessionLife.idleMs),
        expires_at: new Date(nowMs + sessionLife.absoluteMs),
      }
      await store.insertSession(tx, session, sha256(refreshToken))
      const { access_token } = await tokens.issue(user, session.id, refreshToken, nowMs)
      signedIn.push({
        user_id: userId,
        email: user.email,
        access_token,
        refresh_token: encodeBase64url(refreshToken),
      })
    }
  })
  return signedIn
}
