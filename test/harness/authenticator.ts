import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'

/** CBOR (RFC 8949) of the few values that an authenticator sends. */
const cbor = (value: unknown): Buffer => {
  const head = (major: number, length: number): Buffer => {
    if (length < 24) return Buffer.from([(major << 5) | length])
    if (length < 256) return Buffer.from([(major << 5) | 24, length])
    return Buffer.from([(major << 5) | 25, length >> 8, length & 255])
  }
  if (typeof value === 'number') return value < 0 ? head(1, -1 - value) : head(0, value)
  if (typeof value === 'string') return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)])
  if (value instanceof Uint8Array) return Buffer.concat([head(2, value.length), value])
  const entries = value instanceof Map ? [...value] : Object.entries(value as object)
  return Buffer.concat([head(5, entries.length), ...entries.flatMap(([name, each]) => [cbor(name), cbor(each)])])
}

const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest()
const base64url = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64url')

const flags = { present: 1, verified: 4, backupEligible: 8, backedUp: 16, hasCredential: 64 }

/** What a test may have an authenticator or a page do otherwise. */
export type Deviation = {
  readonly origin?: string
  readonly domain?: string
  readonly userVerified?: boolean
  readonly type?: string
  readonly challenge?: string
  readonly counter?: number
  readonly userHandle?: string
  readonly crossOrigin?: boolean
}

/**
 * An authenticator and the page that uses it, in software: a passkey with ES256 on one origin. A real browser is in test/browser.
 */
export const createAuthenticator = ({ origin, domain }: { origin: string; domain: string }) => {
  const { privateKey: key, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const privateKey: KeyObject = createPrivateKey(key.export({ format: 'pem', type: 'pkcs8' }))
  const credentialId = randomBytes(32)
  let counter = 0
  let userHandle = ''

  const clientData = (type: string, challenge: string, deviation: Deviation) =>
    Buffer.from(
      JSON.stringify({
        type: deviation.type ?? type,
        challenge: deviation.challenge ?? challenge,
        origin: deviation.origin ?? origin,
        crossOrigin: deviation.crossOrigin ?? false,
      }),
    )

  const dataOf = (deviation: Deviation, extra = 0, attested: Uint8Array = new Uint8Array()) => {
    const bits = flags.present | ((deviation.userVerified ?? true) ? flags.verified : 0) | flags.backupEligible | extra
    const count = Buffer.alloc(4)
    count.writeUInt32BE(deviation.counter ?? counter)
    return Buffer.concat([sha256(deviation.domain ?? domain), Buffer.from([bits]), count, attested])
  }

  const members = () => ({ id: base64url(credentialId), rawId: base64url(credentialId), type: 'public-key' as const })

  return {
    id: base64url(credentialId),

    /** As `navigator.credentials.create` and `toJSON`. */
    create: (
      options: { challenge: string; user: { id: string } },
      deviation: Deviation & { readonly attestation?: Record<string, unknown>; readonly selfAttested?: boolean } = {},
    ) => {
      userHandle = options.user.id
      const { x = '', y = '' } = publicKey.export({ format: 'jwk' })
      const coordinates = [x, y].map((each) => Buffer.from(each, 'base64url'))
      const coseKey = cbor(
        new Map<number, unknown>([
          [1, 2],
          [3, -7],
          [-1, 1],
          [-2, coordinates[0]],
          [-3, coordinates[1]],
        ]),
      )
      const length = Buffer.from([0, credentialId.length])
      const attested = Buffer.concat([Buffer.alloc(16), length, credentialId, coseKey])
      const authData = dataOf(deviation, flags.hasCredential, attested)
      const data = clientData('webauthn.create', options.challenge, deviation)
      const attest = () => sign('sha256', Buffer.concat([authData, sha256(data)]), privateKey)
      const usual = deviation.selfAttested
        ? { fmt: 'packed', attStmt: { alg: -7, sig: attest() }, authData }
        : { fmt: 'none', attStmt: {}, authData }
      return {
        ...members(),
        authenticatorAttachment: 'platform',
        clientExtensionResults: { credProps: { rk: true } },
        response: {
          clientDataJSON: base64url(data),
          attestationObject: base64url(cbor(deviation.attestation ?? usual)),
          transports: ['internal', 'hybrid'],
        },
      }
    },

    /** As `navigator.credentials.get` and `toJSON`. */
    get: (options: { challenge: string }, deviation: Deviation = {}) => {
      counter += 1
      const data = clientData('webauthn.get', options.challenge, deviation)
      const authenticatorData = dataOf(deviation)
      const signature = sign('sha256', Buffer.concat([authenticatorData, sha256(data)]), privateKey)
      return {
        ...members(),
        authenticatorAttachment: 'platform',
        clientExtensionResults: {},
        response: {
          clientDataJSON: base64url(data),
          authenticatorData: base64url(authenticatorData),
          signature: base64url(signature),
          userHandle: deviation.userHandle ?? userHandle,
        },
      }
    },
  }
}

export type Authenticator = ReturnType<typeof createAuthenticator>
