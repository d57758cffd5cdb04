import { Buffer } from 'node:buffer'
import { timingSafeEqual } from 'node:crypto'
import type { KeyedHash } from '../platform/secrets.ts'
import { keyOfStatement, readStatement, signStatement } from '../platform/signed-statements.ts'
import type { SigningKey, VerifyingKey } from '../platform/tokens.ts'
import { checkpointType, type Head, headType, toHead } from './chain.ts'
import type { AuditKeyRow } from './chain-store.ts'

type Jwk = VerifyingKey['publicJwk']

/** The public values alone, in a fixed order, so that the text is always the same. */
const textOf = (kid: string, { kty, crv, x }: Jwk): string => JSON.stringify([kid, kty, crv, x])

/**
 * Signing of heads and checkpoints, by the key that signs access tokens.
 *
 * Guarantee: a head is believed only if a key signed it that this service has had. The public halves are kept after the keys are
 * gone, each with an HMAC, so that no other program can add one.
 */
export const createAuditKeys = ({
  signer,
  keyedHash,
}: {
  signer: () => SigningKey & Pick<VerifyingKey, 'publicJwk'>
  keyedHash: KeyedHash
}) => {
  const macOf = (kid: string, jwk: Jwk): Uint8Array => keyedHash('audit-key', Buffer.from(textOf(kid, jwk)))

  return {
    /** The row of the key that signs now. */
    current: (): AuditKeyRow => {
      const { kid, publicJwk } = signer()
      return { kid, public_jwk: publicJwk, mac: macOf(kid, publicJwk) }
    },

    signHead: (head: Head, signedAt: string): Promise<string> =>
      signStatement(signer(), headType, { ...head, signed_at: signedAt }),
    signCheckpoint: (position: Head, signedAt: string): Promise<string> =>
      signStatement(signer(), checkpointType, { ...position, signed_at: signedAt }),

    /** What a signed head or checkpoint says; undefined where none of the keys signed it. */
    read: async (
      token: string,
      type: typeof headType | typeof checkpointType,
      rows: readonly AuditKeyRow[],
    ): Promise<Head | undefined> => {
      const kid = keyOfStatement(token)
      const row = rows.find((each) => each.kid === kid)
      if (row === undefined) return undefined
      const mac = macOf(row.kid, row.public_jwk)
      if (mac.length !== row.mac.length || !timingSafeEqual(mac, row.mac)) return undefined
      return toHead(await readStatement(token, type, row.public_jwk))
    },
  }
}

export type AuditKeys = ReturnType<typeof createAuditKeys>
