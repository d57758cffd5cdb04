import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { connect, type Socket } from 'node:net'

const attempt = <T>(read: () => T): T | undefined => {
  try {
    return read()
  } catch {
    // The process has ended.
    return undefined
  }
}

/** The living children of a process. */
export const childrenOf = (pid: number): number[] =>
  (attempt(() => readdirSync(`/proc/${pid}/task`)) ?? [])
    .flatMap((task) => (attempt(() => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')) ?? '').split(' '))
    .filter(Boolean)
    .map(Number)

/** Whether a process is running. A zombie is not. */
export const lives = (pid: number): boolean =>
  attempt(() => /^State:\s+[^ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) ?? false

type Tcp = { localPort: number; remotePort: number; listens: boolean; inode: string }

const hexPort = (address = '') => Number.parseInt(address.split(':')[1] ?? '', 16)

const readTcp = (): Tcp[] =>
  readFileSync('/proc/net/tcp', 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => {
      const [, local, remote, state, , , , , , inode = ''] = line.trim().split(/\s+/)
      return { localPort: hexPort(local), remotePort: hexPort(remote), listens: state === '0A', inode }
    })

const socketsOf = (pid: number): Set<string> => {
  const names = attempt(() => readdirSync(`/proc/${pid}/fd`)) ?? []
  const links = names.map((name) => attempt(() => readlinkSync(`/proc/${pid}/fd/${name}`)))
  return new Set(links.map((link) => /^socket:\[(\d+)\]$/.exec(link ?? '')?.[1] ?? ''))
}

/** Which of the processes listen on a port, and which of them holds each connection to it, by the port of the client. */
export const holdersOf = (serverPort: number, pids: readonly number[]) => {
  const table = readTcp().filter(({ localPort }) => localPort === serverPort)
  const held = pids.flatMap((pid) => {
    const sockets = socketsOf(pid)
    return table.filter(({ inode }) => sockets.has(inode)).map((socket) => ({ ...socket, pid }))
  })
  return {
    listening: held.filter(({ listens }) => listens).map(({ pid }) => pid),
    connections: new Map(held.filter(({ listens }) => !listens).map(({ remotePort, pid }) => [remotePort, pid])),
  }
}

/** The inodes of all sockets that listen on a port, of any process. */
export const listenersOn = (serverPort: number): string[] =>
  readTcp()
    .filter(({ localPort, listens }) => listens && localPort === serverPort)
    .map(({ inode }) => inode)

export type KeptConnection = {
  readonly localPort: number
  /** The status of the response, or undefined if the connection broke. One request at a time. */
  get(path: string, token?: string): Promise<number | undefined>
  close(): void
}

/** A connection whose local port is known and that never reconnects by itself. */
export const keepConnection = (serverPort: number): Promise<KeptConnection> =>
  new Promise((resolve, reject) => {
    let received = ''
    let answered: ((status: number | undefined) => void) | undefined
    let broken = false
    const socket: Socket = connect({ host: '127.0.0.1', port: serverPort }, () =>
      resolve({
        localPort: socket.localPort as number,
        get: (path, token) =>
          new Promise((answer) => {
            if (broken) return answer(undefined)
            received = ''
            answered = answer
            const authorization = token === undefined ? '' : `authorization: Bearer ${token}\r\n`
            socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\n${authorization}\r\n`)
          }),
        close: () => socket.destroy(),
      }),
    )
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      const [head = '', body] = received.split('\r\n\r\n')
      const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1])
      if (body !== undefined && body.length >= length) answered?.(Number(head.split(' ')[1]))
    })
    socket.on('error', reject)
    socket.on('close', () => {
      broken = true
      answered?.(undefined)
    })
  })
