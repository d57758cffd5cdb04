import { median } from '../faults/support.ts'
import { api, register, startApp } from '../harness.ts'

// Run with `bun test/http/login-timing.ts [pairs]`. Prints how long a wrong password takes, how long an unknown address
// takes, and by how much they differ; pairs are interleaved, so that both meet the same machine.
const pairs = Number(process.argv[2] ?? 500)
const app = await startApp()
const client = api(app.baseUrl)
const person = await register(client)

const timed = async (email: string): Promise<number> => {
  const startedMs = performance.now()
  const { status } = await client.post('/api/v1/auth/login', { email, password: 'not the password' })
  if (status !== 401) throw new Error(`A wrong sign-in was answered ${status}`)
  return performance.now() - startedMs
}
const wrong: number[] = []
const unknown: number[] = []
for (let count = 0; count < pairs; count += 1) {
  const ask = [
    async () => void wrong.push(await timed(person.email)),
    async () => void unknown.push(await timed(`nobody-${count}@example.com`)),
  ]
  for (const one of count % 2 === 0 ? ask : ask.reverse()) await one()
}
const differences = wrong.map((ms, index) => ms - (unknown[index] ?? 0))
const show = (name: string, ms: number) => console.log(`${name.padEnd(34)} ${ms.toFixed(3)} ms`)
console.log(`${pairs} interleaved pairs`)
show('wrong password, median', median(wrong))
show('unknown address, median', median(unknown))
show('difference of the medians', median(wrong) - median(unknown))
show('median of the paired differences', median(differences))
await app.close()
process.exit(0)
