import { randomBytes } from 'node:crypto'

/** What every canary holds, and nothing else does. */
const marker = /cnry[0-9a-f]{16}/gi
/** The same where a value is written in hexadecimal, as Postgres shows bytes. */
const hexMarker = /636e7279(?:3[0-9]|6[1-6]){16}/gi

const pad = (text: string, length: number) => (text + randomBytes(length).toString('base64url')).slice(0, length)

/** The forms of secrets that clients send. */
const forms = {
  password: (id: string) => `seven ${id} bottles`,
  /** Refresh tokens, tokens of mails, of invitations, of share links. */
  token: (id: string) => pad(id, 43),
  serviceKey: (id: string) => `vsk_${pad(id, 43)}`,
  accessToken: (id: string) => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const claims = { iss: 'velro', aud: 'velro', sub: id, sid: id, jti: id, exp: 4_000_000_000, iat: 1_700_000_000 }
    return `${part({ alg: 'EdDSA', typ: 'at+jwt', kid: 'k' })}.${part(claims)}.${pad(id, 86)}`
  },
} as const
export type Form = keyof typeof forms

/** Secrets that are sent to a server, each of which is sent once and found again wherever it is written. */
export const createCanaries = () => {
  const planted = new Map<string, string>()
  /** Secrets without a marker: what the server has issued, and encoded forms. */
  const exact = new Map<string, string>()

  return {
    /** A new canary. `where` says in a failure what was sent how. */
    plant: (form: Form, where: string): string => {
      const id = `cnry${randomBytes(8).toString('hex')}`
      planted.set(id, where)
      const value = forms[form](id)
      if (form === 'accessToken') for (const part of value.split('.').slice(1, 2)) exact.set(part, `${where} (claims)`)
      return value
    },
    /** A secret of another form, such as a token that the server has issued. */
    add: (secret: string, where: string): void => {
      if (secret.length >= 12) exact.set(secret, where)
    },
    /** Where the secrets were sent that this text holds. */
    leaksIn: (text: string): string[] => {
      const ids = [...text.matchAll(marker)].map(([id]) => id.toLowerCase())
      for (const [hex] of text.matchAll(hexMarker)) ids.push(Buffer.from(hex, 'hex').toString())
      const found = ids.map((id) => planted.get(id) ?? `an unknown canary ${id}`)
      for (const [secret, where] of exact) if (text.includes(secret)) found.push(where)
      return [...new Set(found)]
    },
    get count() {
      return planted.size + exact.size
    },
  }
}

export type Canaries = ReturnType<typeof createCanaries>
