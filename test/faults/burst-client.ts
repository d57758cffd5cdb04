import { connect, type Socket } from 'node:net'

/**
 * Sends one request again and again on each of many connections, the next one when the one before is answered, and prints how
 * many answers each status had. Arguments as JSON: see `Burst`.
 */
export type Burst = {
  readonly port: number
  readonly path: string
  readonly token: string
  readonly body: string
  readonly connections: number
  readonly perConnection: number
}
const { port, path, token, body, connections, perConnection }: Burst = JSON.parse(process.argv[2] ?? '')
const request = [
  `POST ${path} HTTP/1.1`,
  `Host: 127.0.0.1:${port}`,
  `Authorization: Bearer ${token}`,
  'Content-Type: application/json',
  `Content-Length: ${body.length}`,
  '',
  body,
].join('\r\n')

const open = (): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket))
    socket.once('error', reject)
  })
const sockets: Socket[] = []
while (sockets.length < connections) {
  sockets.push(...(await Promise.all(Array.from({ length: Math.min(50, connections - sockets.length) }, open))))
}

const statuses: Record<string, number> = {}
const count = (status: string) => {
  statuses[status] = (statuses[status] ?? 0) + 1
}
const run = (socket: Socket) =>
  new Promise<void>((resolve) => {
    let left = perConnection
    let received = ''
    const lose = () => {
      if (left > 0) count('lost')
      left = 0
      resolve()
    }
    socket.setEncoding('latin1')
    socket.on('error', lose).on('close', lose)
    socket.on('data', (chunk) => {
      received += chunk
      const head = received.indexOf('\r\n\r\n')
      const length = /content-length: (\d+)/i.exec(received)?.[1]
      if (head < 0 || length === undefined || received.length < head + 4 + Number(length)) return
      count(received.slice(9, 12))
      received = ''
      left -= 1
      if (left > 0) socket.write(request)
      else resolve()
    })
    socket.write(request)
  })
await Promise.all(sockets.map(run))
console.log(JSON.stringify(statuses))
process.exit(0)
