import { beside } from './beside.ts'
import { burst, burstAtStart } from './burst.ts'
import { changes } from './changes.ts'
import { check, checkOnDeno } from './check.ts'
import { checkUnderLogins } from './check-under-logins.ts'
import { cold } from './cold.ts'
import { connections, processes } from './connections.ts'
import { growth } from './growth.ts'
import { hitRate } from './hit-rate.ts'
import { limits } from './limits.ts'
import { login } from './login.ts'
import { mixed, users10000 } from './mixed.ts'
import { betterAuth, openfga } from './peers.ts'
import { redisAuthentication } from './redis-authentication.ts'
import { redisStalled } from './redis-stalled.ts'
import { renders } from './renders.ts'
import { replaced } from './replaced.ts'
import { revocation } from './revocation.ts'
import { routeScenarios } from './routes.ts'
import type { Scenario } from './scenario.ts'
import { start } from './start.ts'
import { tiers } from './tiers.ts'
import { warmUp } from './warm-up.ts'

/** Every scenario by its name. */
export const scenarios: Readonly<Record<string, Scenario>> = {
  check,
  'check-deno': checkOnDeno,
  ...routeScenarios,
  cold,
  login,
  'check-under-logins': checkUnderLogins,
  revocation,
  changes,
  mixed,
  connections,
  processes,
  'users-10000': users10000,
  burst,
  'burst-at-start': burstAtStart,
  growth,
  replaced,
  openfga,
  'better-auth': betterAuth,
  'hit-rate': hitRate,
  limits,
  tiers,
  'redis-authentication': redisAuthentication,
  'redis-stalled': redisStalled,
  'warm-up': warmUp,
  renders,
  start,
  beside,
}
