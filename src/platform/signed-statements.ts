import { Buffer } from 'node:buffer'
import { CompactSign, compactVerify, type JWK } from 'jose'
import { importKey, type SigningKey } from './tokens.ts'

const algorithm = 'EdDSA'
const maxLength = 4_096

/**
 * Signs a statement that is no access token: a compact JWS (RFC 7515) whose `typ` says what it states, so that neither is taken for
 * the other.
 */
export const signStatement = ({ kid, privateKey }: SigningKey, typ: string, statement: object): Promise<string> =>
  new CompactSign(Buffer.from(JSON.stringify(statement)))
    .setProtectedHeader({ alg: algorithm, typ, kid })
    .sign(privateKey)

/** The id of the key that a statement names; undefined where it is no compact JWS. Nothing is verified. */
export const keyOfStatement = (text: string): string | undefined => {
  if (text.length > maxLength) return undefined
  try {
    const header: unknown = JSON.parse(Buffer.from(text.slice(0, text.indexOf('.')), 'base64url').toString())
    return typeof header === 'object' && header !== null && 'kid' in header && typeof header.kid === 'string'
      ? header.kid
      : undefined
  } catch {
    return undefined
  }
}

/** What a statement says; undefined where its signature or type is not right. */
export const readStatement = async (text: string, typ: string, publicJwk: JWK): Promise<unknown> => {
  if (text.length > maxLength) return undefined
  try {
    const { payload, protectedHeader } = await compactVerify(text, await importKey(publicJwk), {
      algorithms: [algorithm],
    })
    return protectedHeader.typ === typ ? JSON.parse(Buffer.from(payload).toString()) : undefined
  } catch {
    return undefined
  }
}
