import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestConnection } from '../harness.ts'

/** A route to Postgres that can be cut: open connections break, and new ones are refused. */
export type Cuttable = {
  readonly connection: TestConnection
  cut(): Promise<void>
  mend(): Promise<void>
  close(): Promise<void>
}

/** A route over a separate socket folder. */
export const createCuttable = async (connection: TestConnection): Promise<Cuttable> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-cuttable-'))
  const name = `.s.PGSQL.${connection.port}`
  const sockets = new Set<Socket>()
  let server: Server | undefined

  const mend = async () => {
    const created = createServer((client) => {
      const upstream = connect(join(connection.host, name))
      for (const [socket, peer] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        sockets.add(socket)
        socket
          .on('error', () => {})
          .on('close', () => {
            sockets.delete(socket)
            peer.destroy()
          })
        socket.pipe(peer)
      }
    })
    await new Promise<void>((resolve) => created.listen(join(folder, name), resolve))
    server = created
  }
  const cut = async () => {
    const last = server
    server = undefined
    const closed = new Promise<void>((resolve) => (last === undefined ? resolve() : last.close(() => resolve())))
    for (const socket of sockets) socket.destroy()
    await closed
  }
  await mend()
  return {
    connection: { ...connection, host: folder },
    cut,
    mend,
    close: async () => {
      await cut()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
