import { createBusThread, type FromThread, type ToThread } from '../../access/invalidation/bus-thread.ts'
import { createFlagStore } from '../../flags/store.ts'

/** The thread of the bus. */
declare const self: Worker

const receive = createBusThread({
  post: (message: FromThread) => self.postMessage(message),
  readSwitches: (sql) => createFlagStore(sql).list(),
})
self.onmessage = ({ data }: MessageEvent<ToThread>) => receive(data)
