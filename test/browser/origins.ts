import { execFile } from 'node:child_process'
import { createHash, X509Certificate } from 'node:crypto'
import { mkdtemp, readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { promisify } from 'node:util'
import { reapFolder } from '../harness/reaper.ts'

export type Certificate = { readonly key: string; readonly cert: string; readonly publicKeyHash: string }

/** A self-signed certificate for every name below `velro.test` and `elsewhere.test`. */
export const createCertificate = async (): Promise<Certificate> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-certificate-'))
  reapFolder(folder)
  const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-keyout', keyFile, '-out', certFile, '-subj', '/CN=velro.test'],
    ...['-addext', 'subjectAltName=DNS:*.velro.test,DNS:*.elsewhere.test'],
  ])
  const [key, cert] = await Promise.all([readFile(keyFile, 'utf8'), readFile(certFile, 'utf8')])
  const publicKey = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' })
  return { key, cert, publicKeyHash: createHash('sha256').update(publicKey).digest('base64') }
}

/** Ends TLS, and passes the bytes on to a port of this machine. It has the same port from the start, and its target later. */
export const startTlsProxy = async ({ key, cert }: Certificate) => {
  let target: number | undefined
  const server = createServer({ key, cert }, (client) => {
    if (target === undefined) return client.destroy()
    const upstream = connect(target, '127.0.0.1')
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => other.destroy())
      one.pipe(other)
    }
    return undefined
  })
  server.on('tlsClientError', () => {})
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  return {
    port,
    leadTo: (to: number) => {
      target = to
    },
    close: () => void server.close(),
  }
}

/** Serves one page of HTML at every path, over HTTPS. */
export const servePage = ({ key, cert }: Certificate, html: string) => {
  const server = Bun.serve({
    port: 0,
    hostname: '127.0.0.1',
    tls: { key, cert },
    fetch: () => new Response(html, { headers: { 'content-type': 'text/html; charset=utf-8' } }),
  })
  return { port: server.port as number, close: () => server.stop(true) }
}
