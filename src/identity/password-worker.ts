import { hashSync } from '@node-rs/argon2'
import { lowerThreadPriority } from '../platform/thread-priority.ts'
import type { ResultMessage, WorkMessage } from '../platform/worker-pool.ts'
import { verifyHash } from './hashes/verify.ts'
import type { PasswordResult, PasswordWork } from './passwords.ts'

/** One thread of the password pool. Passwords are hashed and verified only here. */
declare const self: Worker

// A sign-in waits for each hash, so other programs of a busy machine must not starve it.
lowerThreadPriority(5)

const perform = (work: PasswordWork): PasswordResult =>
  work.kind === 'hash'
    ? { kind: 'hash', hash: hashSync(work.password, work.cost) }
    : { kind: 'verify', matches: verifyHash(work.hash, work.password) }

self.onmessage = ({ data: { id, work } }: MessageEvent<WorkMessage<PasswordWork>>) => {
  let answer: ResultMessage<PasswordResult>
  try {
    answer = { id, result: perform(work) }
  } catch (error) {
    answer = { id, error: error instanceof Error ? error.message : 'hashing failed' }
  }
  self.postMessage(answer)
}
