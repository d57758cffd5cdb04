/** Where security events are sent. */
export type SiemSettings =
  | { readonly kind: 'stdout' }
  | {
      readonly kind: 'https'
      readonly url: string
      readonly authorization: string | undefined
      readonly caFile: string | undefined
    }
  | {
      readonly kind: 'syslog'
      readonly host: string
      readonly port: number
      readonly tls: boolean
      readonly caFile: string | undefined
    }

const example =
  'SIEM_URL must be stdout:, an https URL, syslog+tls://HOST:PORT or syslog+tcp://HOST:PORT, without a user and a password'

const isLocal = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(host)

/** Undefined: events stay in the database. */
export const readSiem = (
  text: (name: string) => string | undefined,
  problems: string[],
  notes: string[],
): SiemSettings | undefined => {
  const given = text('SIEM_URL')
  const authorization = text('SIEM_AUTHORIZATION')
  const caFile = text('SIEM_CA_FILE')
  const others = { SIEM_AUTHORIZATION: authorization, SIEM_CA_FILE: caFile }
  if (given === undefined) {
    for (const [name, value] of Object.entries(others))
      if (value !== undefined) problems.push(`SIEM_URL must be set too, because ${name} is`)
    return undefined
  }
  const url = URL.parse(given)
  const isStdout = given === 'stdout:' || given === 'stdout'
  const protocol = url?.protocol ?? ''
  const isHttp = protocol === 'https:' || protocol === 'http:'
  const isSyslog = protocol === 'syslog+tls:' || protocol === 'syslog+tcp:'
  if (!isStdout && (url === null || !(isHttp || isSyslog) || url.username !== '' || url.password !== '')) {
    problems.push(example)
    return undefined
  }
  if (authorization !== undefined && !isHttp) problems.push('SIEM_AUTHORIZATION is for an https URL in SIEM_URL')
  if (authorization !== undefined && !/^[\x21-\x7e][\x20-\x7e]*$/.test(authorization))
    problems.push('SIEM_AUTHORIZATION must be printable ASCII, as the value of the field Authorization')
  if (isStdout || url === null) return { kind: 'stdout' }
  if (url.hash !== '') problems.push('SIEM_URL must not have a fragment')
  const isPlain = protocol === 'http:' || protocol === 'syslog+tcp:'
  if (isPlain && !isLocal(url.hostname))
    notes.push(
      'SIEM_URL sends security events without encryption: use https or syslog+tls outside of a private network',
    )
  if (isPlain && caFile !== undefined) problems.push('SIEM_CA_FILE is for https and syslog+tls in SIEM_URL')
  if (isHttp) return { kind: 'https', url: given, authorization, caFile }
  if (url.hostname === '' || url.port === '' || !/^\/?$/.test(url.pathname) || url.search !== '')
    problems.push(
      'SIEM_URL must have a host and a port and nothing after them, such as syslog+tls://logs.example.com:6514',
    )
  const host = url.hostname.replace(/^\[|\]$/g, '')
  return { kind: 'syslog', host, port: Number(url.port), tls: protocol === 'syslog+tls:', caFile }
}
