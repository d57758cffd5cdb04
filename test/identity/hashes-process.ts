import { storedHash } from '../../src/identity/hashes/formats.ts'
import { verifyHash } from '../../src/identity/hashes/verify.ts'
import { vectors } from './hash-vectors.ts'

/** Run by password-hashes.test.ts on another runtime: prints whether each hash is verified. */
console.log(
  JSON.stringify(
    vectors.map(([what, hash, password]) => ({
      what,
      right: verifyHash(hash, password) && verifyHash(storedHash(hash), password),
      wrong: verifyHash(hash, `${password}x`),
    })),
  ),
)
