import { execFileSync } from 'node:child_process'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startDaemon } from './daemon.ts'
import { reapFolder } from './reaper.ts'
import { freePort } from './redis.ts'

const withSbin = { PATH: `${process.env['PATH']}:/usr/sbin` }

/** The rsyslog of the system; undefined where it or its module for TLS is missing, and tests that need it are skipped. */
export const rsyslog = (() => {
  const program = Bun.which('rsyslogd', withSbin)
  if (program === null || Bun.which('openssl') === null) return undefined
  try {
    execFileSync('/bin/sh', ['-c', 'ls /usr/lib/*/rsyslog/lmnsd_gtls.so'], { stdio: 'ignore' })
    return program
  } catch {
    return undefined
  }
})()

/** A message as rsyslog has parsed it. */
export type SyslogMessage = {
  readonly priority: number
  readonly time: string
  readonly host: string
  readonly app: string
  readonly pid: string
  readonly id: string
  readonly text: string
}

export type TestRsyslog = {
  readonly port: number
  readonly pid: number
  /** The file with the certificate of its authority. */
  readonly caFile: string
  messages(): Promise<SyslogMessage[]>
  stop(signal?: NodeJS.Signals): Promise<void>
  /** Another one on the same port, which goes on with the same file. */
  again(): Promise<TestRsyslog>
}

/** A folder with an authority and a certificate for 127.0.0.1. */
export const createCertificate = async (): Promise<{
  folder: string
  caFile: string
  certificate: string
  key: string
}> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-tls-'))
  reapFolder(folder)
  const file = (name: string) => join(folder, name)
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' })
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  openssl('req', '-x509', ...newKey, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=test authority')
  openssl('req', ...newKey, '-keyout', 'key.pem', '-out', 'request.pem', '-subj', '/CN=localhost')
  await writeFile(file('extensions'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'extensions', '-days', '2']
  openssl('x509', '-req', '-in', 'request.pem', '-out', 'certificate.pem', ...signed)
  return { folder, caFile: file('ca.pem'), certificate: file('certificate.pem'), key: file('key.pem') }
}

/** A real rsyslog that takes messages over TCP or TLS and writes them into a file, which a later one on the port goes on with. */
export const startRsyslog = async ({
  tls = false,
  port: given,
  folder: before,
}: {
  tls?: boolean
  port?: number
  folder?: Awaited<ReturnType<typeof createCertificate>>
} = {}): Promise<TestRsyslog> => {
  if (rsyslog === undefined) throw new Error('rsyslog is not installed')
  const made = before ?? (await createCertificate())
  const { folder, caFile, certificate, key } = made
  const port = given ?? (await freePort())
  const output = join(folder, 'messages')
  const driver = 'StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon"'
  const config = `
global(workDirectory="${folder}" defaultNetstreamDriverCAFile="${caFile}" defaultNetstreamDriverCertFile="${certificate}"
       defaultNetstreamDriverKeyFile="${key}")
module(load="imtcp" ${tls ? driver : ''})
input(type="imtcp" address="127.0.0.1" port="${port}")
template(name="parsed" type="string"
         string="%pri% %timestamp:::date-rfc3339% %hostname% %app-name% %procid% %msgid% %msg%\\n")
*.* action(type="omfile" file="${output}" template="parsed")
`
  await writeFile(join(folder, 'rsyslog.conf'), config)
  const files = ['-f', join(folder, 'rsyslog.conf'), '-i', 'NONE']
  const { pid, stop } = await startDaemon([rsyslog, '-n', ...files], { ready: { port } })
  return {
    port,
    pid,
    caFile,
    messages: async () => {
      const text = await readFile(output, 'utf8').catch(() => '')
      return text.split('\n').flatMap((line): SyslogMessage[] => {
        const [, priority, time = '', host = '', app = '', pidText = '', id = '', rest = ''] =
          /^(\d+) (\S+) (\S+) (\S+) (\S+) (\S+) (.*)$/s.exec(line) ?? []
        return priority === undefined || app !== 'Velro'
          ? []
          : [{ priority: Number(priority), time, host, app, pid: pidText, id, text: rest.trim() }]
      })
    },
    stop,
    again: () => startRsyslog({ tls, port, folder: made }),
  }
}
