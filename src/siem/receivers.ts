import { Buffer } from 'node:buffer'
import { hostname } from 'node:os'
import process from 'node:process'
import {
  createHttpsTransport,
  createSocketTransport,
  createStdoutTransport,
  linesOf,
  type Transport,
} from '../platform/siem-transport.ts'
import type { OcsfEvent } from './ocsf.ts'
import type { SendBatch } from './sender.ts'
import type { SiemSettings } from './settings.ts'
import { framed, toSyslog } from './syslog.ts'

const asLines = (events: readonly OcsfEvent[]): Buffer => linesOf(events.map((event) => JSON.stringify(event)))

const transportOf = (settings: SiemSettings): Transport => {
  if (settings.kind === 'stdout') return createStdoutTransport()
  if (settings.kind === 'syslog') return createSocketTransport(settings)
  const { url, authorization, caFile } = settings
  const headers = { 'content-type': 'application/x-ndjson', ...(authorization !== undefined && { authorization }) }
  return createHttpsTransport({ url, headers, caFile })
}

/** Sends events as the receiver takes them: to stdout and HTTPS one JSON object on each line, to syslog one message for each. */
export const createReceiver = (settings: SiemSettings, product: string): SendBatch => {
  const transport = transportOf(settings)
  const header = { host: hostname(), app: product, pid: process.pid }
  const encode =
    settings.kind === 'syslog'
      ? (events: readonly OcsfEvent[]) => Buffer.concat(events.map((event) => framed(toSyslog(event, header))))
      : asLines
  return (events, signal) => transport(encode(events), signal)
}
