import { connect, createServer, type Socket } from 'node:net'
import type { TestConnection } from '../harness.ts'

/** A TCP address of a Postgres that listens on a socket only. `cut` closes all connections and the port for good. */
export const startProxy = async ({ host, port, user, database }: TestConnection) => {
  const sockets = new Set<Socket>()
  const proxy = createServer((client) => {
    const server = connect(`${host}/.s.PGSQL.${port}`)
    client.pipe(server).pipe(client)
    for (const socket of [client, server]) {
      sockets.add(socket)
      socket
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(socket)
          client.destroy()
          server.destroy()
        })
    }
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const { port: own } = proxy.address() as { port: number }
  const cut = () => {
    proxy.close()
    for (const socket of sockets) socket.destroy()
  }
  return { port: own, url: `postgres://${user}@127.0.0.1:${own}/${database}`, cut }
}
