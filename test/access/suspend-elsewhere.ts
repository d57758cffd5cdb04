import { startCaches } from './caches.ts'

/**
 * An instance that suspends a user and prints how the wait for the other instances ended.
 * Arguments: the connection as JSON, the id of the user.
 */
const [connection = '', userId = ''] = process.argv.slice(2)
const caches = await startCaches(JSON.parse(connection))
await caches.setStatus(userId, 'suspended')
console.log(caches.bus.counts.acknowledged === 1 ? 'acknowledged' : 'lapsed')
await caches.close()
process.exit(0)
