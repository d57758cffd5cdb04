import { execFile } from 'node:child_process'
import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { SMTPServer, type SMTPServerOptions } from 'smtp-server'
import { reapFolder } from './reaper.ts'
import { freePort } from './redis.ts'

/** A mail as a server got it. */
export type ReceivedMail = { readonly from: string; readonly to: readonly string[]; readonly source: string }

export type Certificate = { readonly key: string; readonly cert: string; readonly file: string }

/** A certificate for localhost that is its own authority. */
export const makeCertificate = async (name = 'localhost'): Promise<Certificate> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-smtp-'))
  reapFolder(folder)
  const [key, file] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`],
    ...['-addext', `subjectAltName=DNS:${name},IP:127.0.0.1`, '-keyout', key, '-out', file],
  ])
  return { key: await readFile(key, 'utf8'), cert: await readFile(file, 'utf8'), file }
}

/** The error with which a server refuses, by its status. */
export const refusal = (responseCode: number, message = 'refused'): Error =>
  Object.assign(new Error(message), { responseCode })

/** A real SMTP server on a free port, which keeps the mails that it accepts. */
export const startSmtpServer = async (options: SMTPServerOptions = {}) => {
  const mails: ReceivedMail[] = []
  const server = new SMTPServer({
    authOptional: true,
    logger: false,
    onData: (stream, session, done) => {
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope
        mails.push({
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          source: Buffer.concat(chunks).toString('utf8'),
        })
        done()
      })
    },
    ...options,
  })
  server.on('error', () => {})
  const port = await freePort()
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', () => resolve()))
  return {
    port,
    mails,
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  }
}
