import { Buffer } from 'node:buffer'
import type { OcsfEvent } from './ocsf.ts'

/** Of a whole message: rsyslog splits a longer one, and loses bytes at the cuts. */
export const maxMessageBytes = 8_095

/** `log audit` (RFC 5424, 6.2.1). */
const facility = 13
/** Severities of syslog by those of OCSF: notice for what is informational, critical for what is critical. */
const severityOf: Readonly<Record<number, number>> = { 1: 5, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1 }

/** Printable ASCII of at most this length, as header fields must be; a hyphen where nothing is left. */
const field = (text: string, maxLength: number): string => text.replace(/[^\x21-\x7e]/g, '').slice(0, maxLength) || '-'

const mark = '…'
/** Limits of the texts in an event, tried until it fits. */
const textLimits = [1_024, 256, 64]

/** The value with every text in it cut to `most` characters and marked. */
const cutTexts = (value: unknown, most: number): unknown => {
  if (typeof value === 'string') return value.length <= most ? value : `${value.slice(0, most - 1)}${mark}`
  if (Array.isArray(value)) return value.map((each) => cutTexts(each, most))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name.slice(0, most), cutTexts(each, most)]))
}

/** Cuts what people chose: the values before and after, and the name of the client's program. Ids and the chain stay whole. */
const shortened = (event: OcsfEvent, most: number): object => {
  const { before, after, ...unmapped } = event.unmapped
  const values =
    most === 0 ? { cut: true } : { cut: true, before: cutTexts(before, most), after: cutTexts(after, most) }
  const request = event.http_request && {
    ...event.http_request,
    user_agent: cutTexts(event.http_request.user_agent, most || 64),
  }
  return { ...event, ...(request && { http_request: request }), unmapped: { ...unmapped, ...values } }
}

/**
 * An event as one message of RFC 5424, without framing. Its text is the event as JSON in UTF-8.
 *
 * Guarantee: it has at most 8,095 bytes. A longer one is shortened in the values that people chose, which `unmapped.cut` says; it
 * stays valid JSON.
 */
export const toSyslog = (event: OcsfEvent, { host, app, pid }: { host: string; app: string; pid: number }): Buffer => {
  const priority = facility * 8 + (severityOf[event.severity_id] ?? 5)
  const time = new Date(event.time).toISOString()
  const header = `<${priority}>1 ${time} ${field(host, 255)} ${field(app, 48)} ${pid} ${field(event.metadata.event_code, 32)} - `
  for (const make of [() => event, ...[...textLimits, 0].map((most) => () => shortened(event, most))]) {
    const message = Buffer.from(header + JSON.stringify(make()))
    if (message.length <= maxMessageBytes) return message
  }
  throw new Error(`The event ${event.metadata.uid} does not fit into a message of syslog`)
}

/** Framed by octet counting (RFC 6587, 3.4.1): no byte of a message is taken for its end. */
export const framed = (message: Buffer): Buffer => Buffer.concat([Buffer.from(`${message.length} `), message])
