import { verifySync } from '@node-rs/argon2'

declare const self: Worker

self.onmessage = ({ data: { hash, password } }: MessageEvent<{ hash: string; password: string }>) => {
  self.postMessage(verifySync(hash, password))
}
