import type { PostgresWatch } from '../../src/access/cache/postgres-watch.ts'

/** A watch of Postgres that probes by `isReachable`, one probe at a time, and whose breaker is opened by hand. */
export const createFixedWatch = (isReachable: () => Promise<boolean>) => {
  let isOpen = false
  let probing: Promise<boolean> | undefined
  const listeners: { open: (() => void)[]; close: (() => void)[] } = { open: [], close: [] }
  const watch: Pick<PostgresWatch, 'isOpen' | 'probe' | 'onOpen' | 'onClose'> = {
    isOpen: () => isOpen,
    probe: () => {
      probing ??= isReachable().finally(() => {
        probing = undefined
      })
      return probing
    },
    onOpen: (listener) => void listeners.open.push(listener),
    onClose: (listener) => void listeners.close.push(listener),
  }
  return {
    watch,
    setOpen: (open: boolean) => {
      isOpen = open
      for (const listener of open ? listeners.open : listeners.close) listener()
    },
  }
}
