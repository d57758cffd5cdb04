import { createBusThread, type FromThread, type ToThread } from '../../access/invalidation/bus-thread.ts'
import { createTierFlagStore } from '../../flags/tiers/store.ts'

/** The thread of the bus. */
declare const self: Worker

const receive = createBusThread({
  post: (message: FromThread) => self.postMessage(message),
  readSwitches: (sql) => createTierFlagStore(sql).list(),
})
self.onmessage = ({ data }: MessageEvent<ToThread>) => receive(data)
