import { api, type Person, register, startServer, type TestServer } from '../harness.ts'

/**
 * Logins of others while one address keeps wrong logins in flight, at the real cost of a hash:
 *
 *     bun test/faults/login-fairness.ts [--directory OTHER_CHECKOUT] [--in-flight 160] [--limits off]
 *
 * The flood runs in a process of its own. It names another unknown account each time, so that only the queue for hashes and
 * no pause of an account is measured. Without limits of requests the queue alone keeps the flood off.
 */
const others = 20
const option = (name: string): string | undefined => {
  const at = process.argv.indexOf(name)
  return at < 0 ? undefined : process.argv[at + 1]
}
const loginPath = '/api/v1/auth/login'
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })

/** Sends wrong logins until the process is killed. Prints their statuses each second. */
const flood = async (baseUrl: string, inFlight: number): Promise<void> => {
  const client = api(baseUrl)
  const counts: Record<number, number> = {}
  setInterval(() => console.log(JSON.stringify(counts)), 1_000)
  const keepAsking = async (index: number) => {
    for (let round = 0; ; round += 1) {
      const email = `absent-${index}-${round}@example.com`
      const { status } = await client.post(loginPath, { email, password: 'not the password' }, from('198.51.100.7'))
      counts[status] = (counts[status] ?? 0) + 1
      // As a client does that is told to wait, if not for long.
      if (status !== 401) await Bun.sleep(20)
    }
  }
  await Promise.all(Array.from({ length: inFlight }, (_, index) => keepAsking(index)))
}

type Timed = { readonly status: number; readonly ms: number }

/** One login after the other, each of another person from another address. */
const logIn = async (server: TestServer, people: readonly Person[]): Promise<Timed[]> => {
  const timed: Timed[] = []
  for (let at = 0; at < others; at += 1) {
    const { email, password } = people[at % people.length] as Person
    const startedMs = performance.now()
    const { status } = await api(server.baseUrl).post(loginPath, { email, password }, from(`203.0.113.${at + 1}`))
    timed.push({ status, ms: performance.now() - startedMs })
  }
  return timed
}

const summarise = (timed: readonly Timed[]) => {
  const sorted = timed.map(({ ms }) => ms).toSorted((one, other) => one - other)
  const at = (fraction: number) => Math.round(sorted[Math.ceil(fraction * sorted.length) - 1] ?? 0)
  return { succeeded: timed.filter(({ status }) => status === 200).length, p50: at(0.5), p99: at(0.99) }
}

const report = (name: string, alone: readonly Timed[], flooded: readonly Timed[], statuses: string) => {
  const [quiet, loud] = [summarise(alone), summarise(flooded)]
  console.log(
    `${name}: ${loud.succeeded} of ${flooded.length} logins of others succeed, P50 ${loud.p50} ms, P99 ${loud.p99} ms;` +
      ` alone ${quiet.succeeded} of ${alone.length}, P50 ${quiet.p50} ms, P99 ${quiet.p99} ms;` +
      ` ratio of P50 ${(loud.p50 / quiet.p50).toFixed(1)}; answers to the flood ${statuses}`,
  )
}

const main = async (): Promise<void> => {
  const server = await startServer({
    runtime: 'bun',
    env: { TRUSTED_PROXIES: '127.0.0.1', LIMITS: option('--limits') ?? 'on', LOG_LEVEL: 'silent' },
    directory: option('--directory') ?? process.cwd(),
  })
  const people: Person[] = []
  for (let index = 0; index < others; index += 1) people.push(await register(api(server.baseUrl)))
  const given = option('--in-flight')
  for (const inFlight of given === undefined ? [20, 160] : [Number(given)]) {
    const alone = await logIn(server, people)
    const child = Bun.spawn([process.execPath, import.meta.path, '--flood', server.baseUrl, String(inFlight)], {
      stdout: 'pipe',
      stderr: 'inherit',
    })
    await Bun.sleep(2_000)
    const flooded = await logIn(server, people)
    child.kill('SIGKILL')
    const lines = (await new Response(child.stdout).text()).trim().split('\n')
    report(`${inFlight} in flight`, alone, flooded, lines.at(-1) ?? '')
    // The queue empties.
    await Bun.sleep(5_000)
  }
  await server.stop()
}

if (process.argv[2] === '--flood') await flood(process.argv[3] ?? '', Number(process.argv[4]))
else await main()
process.exit(0)
