import { readFile } from 'node:fs/promises'
import { api, register, startServer, type Runtime } from './harness.ts'
const cpuOf = async (pid: number) => { const f = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' '); return (Number(f[11]) + Number(f[12])) * 10 }
const oha = `${process.env['HOME']}/.cargo/bin/oha`
for (const runtime of (process.argv[2] ? [process.argv[2]] : ['bun', 'deno']) as Runtime[]) {
  const subjects = [] as { name: string; pid: number; url: string; token: string; body: string; stop: () => Promise<unknown>; us: number[] }[]
  for (const [name, directory, env] of [['before', '/work/ctx-before/', {}], ['off', '/work/wt-context/', { SECURITY_CONTEXT: 'off' }], ['enforce', '/work/wt-context/', { SECURITY_CONTEXT: 'enforce' }]] as const) {
    const server = await startServer({ runtime, directory, env: { ...env }, readyWithinMs: 60000 })
    const client = api(server.baseUrl)
    const person = await register({ ...client, post: (p, b) => client.post(p, b, { headers: { 'user-agent': 'oha' } }) } as never)
    const project = (await client.post('/api/v1/projects', { name: 'p' }, { token: person.token })).body.id
    subjects.push({ name, pid: server.pid, url: `${server.baseUrl}/api/v1/authorization/check`, token: person.token, body: JSON.stringify({ action: 'read', resource: { type: 'project', id: project } }), stop: server.stop, us: [] })
  }
  const n = 30000
  for (let round = 0; round < 7; round++) for (const s of subjects) {
    const before = await cpuOf(s.pid)
    const run = Bun.spawn([oha, '--no-tui', '-n', String(n), '-c', '16', '-m', 'POST', '-H', `authorization: Bearer ${s.token}`, '-H', 'content-type: application/json', '-d', s.body, s.url], { stdout: 'pipe', stderr: 'ignore' })
    const out = await new Response(run.stdout).text()
    if (!out.includes(`[200] ${n}`)) console.log(s.name, /\[\d+\] \d+.*/g.exec(out)?.[0])
    if (round > 0) s.us.push(((await cpuOf(s.pid)) - before) * 1000 / n)
  }
  for (const s of subjects) { const sorted = s.us.toSorted((a, b) => a - b); console.log(runtime, s.name, 'median', sorted[Math.floor(sorted.length / 2)]!.toFixed(1), 'min', sorted[0]!.toFixed(1), 'µs cpu/request', s.us.map((u) => u.toFixed(1)).join(' ')); await s.stop() }
}
process.exit(0)
