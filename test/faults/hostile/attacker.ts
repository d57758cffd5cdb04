/** Sends the requests of one attack on some connections, one after the other on each. Ends at SIGTERM and counts the answers. */
import { connect, type Socket } from 'node:net'
import process from 'node:process'
import { attacks } from './attacks.ts'

const [baseUrl = '', name = '', connections = '16'] = process.argv.slice(2)
const { hostname, port } = new URL(baseUrl)
const given = JSON.parse(await Bun.stdin.text()) as { token: string; forged: string[] }
let nextForged = 0
const world = { token: given.token, forged: () => given.forged[nextForged++ % given.forged.length] as string }
const attack = attacks[name]
if (attack === undefined) throw new Error(`No attack is called ${name}`)
const requests = attack(world)[Symbol.iterator]()

const counts: Record<string, number> = {}
const count = (key: string) => {
  counts[key] = (counts[key] ?? 0) + 1
}

/** The status of the next complete answer; undefined when the server hangs up. */
const answerOf = (socket: Socket, toSend: Buffer): Promise<string | undefined> =>
  new Promise((resolve) => {
    let received = ''
    const finish = (status: string | undefined) => {
      socket.off('data', take)
      socket.off('close', close)
      resolve(status)
    }
    const take = (chunk: Buffer) => {
      received += chunk.toString('latin1')
      const end = received.indexOf('\r\n\r\n')
      if (end < 0) return
      const length = Number(/content-length: (\d+)/i.exec(received.slice(0, end))?.[1] ?? 0)
      if (received.length >= end + 4 + length) finish(received.slice(9, 12))
    }
    const close = () => finish(undefined)
    socket.on('data', take)
    socket.on('close', close)
    socket.write(toSend)
  })

const opened = () =>
  new Promise<Socket>((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) }, () => resolve(socket))
    socket.on('error', () => {})
  })

const texts = new Map<string, Buffer>()
const bytesOf = ({ path, body, token }: { path: string; body?: string; token?: string }): Buffer => {
  const head = [
    `${body === undefined ? 'GET' : 'POST'} ${path} HTTP/1.1`,
    'host: velro',
    ...(token === undefined ? [] : [`authorization: Bearer ${token}`]),
    ...(body === undefined ? [] : ['content-type: application/json', `content-length: ${body.length}`]),
  ].join('\r\n')
  const known = texts.get(`${head}${body?.length}${body?.slice(0, 20)}`)
  if (known !== undefined) return known
  const bytes = Buffer.from(`${head}\r\n\r\n${body ?? ''}`)
  if (bytes.length > 100_000) texts.set(`${head}${body?.length}${body?.slice(0, 20)}`, bytes)
  return bytes
}

const send = async () => {
  let socket = await opened()
  for (;;) {
    const { value } = requests.next()
    const status = await answerOf(socket, bytesOf(value))
    count(status ?? 'closed')
    if (status === undefined || socket.destroyed) socket = await opened()
  }
}
for (let at = 0; at < Number(connections); at += 1) void send()
process.stdout.write('started\n')
process.on('SIGTERM', () => {
  process.stdout.write(`${JSON.stringify(counts)}\n`)
  process.exit(0)
})
