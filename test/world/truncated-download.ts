import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { png } from '../harness/pictures.ts'
import { forgetProcess, reapAll, reapFolder, reapProcess } from '../harness/reaper.ts'
import { api, freePort, type Runtime, register, startServer } from '../harness.ts'

/*
 * A download that breaks off behind a proxy is an error for its client.
 *
 * For each runtime and proxy: a picture of 24 MB is downloaded through the proxy at 4 MB/s, and the server is killed after a
 * second. curl must fail, having received a Content-Length. nginx 1.22 speaks HTTP/1.0 to the server: without a
 * Content-Length a client could not distinguish a broken download from a complete one.
 *
 * `bun test/world/truncated-download.ts`; needs nginx, haproxy and curl. A proxy that is missing is named and skipped.
 */

const side = 2_450

const startProxy = {
  nginx: async (folder: string, port: number, upstream: number) => {
    const file = join(folder, `nginx-${port}.conf`)
    await writeFile(
      file,
      `daemon off; worker_processes 1; pid ${folder}/nginx-${port}.pid; error_log ${folder}/error.log;
      events { worker_connections 64; }
      http {
        access_log off; client_body_temp_path ${folder}; proxy_temp_path ${folder};
        fastcgi_temp_path ${folder}; uwsgi_temp_path ${folder}; scgi_temp_path ${folder};
        server { listen 127.0.0.1:${port}; client_max_body_size 64m;
          location / { proxy_pass http://127.0.0.1:${upstream}; proxy_buffering off; } }
      }`,
    )
    return spawn('nginx', ['-c', file, '-e', join(folder, 'error.log')], { stdio: 'ignore' })
  },
  haproxy: async (folder: string, port: number, upstream: number) => {
    const file = join(folder, `haproxy-${port}.cfg`)
    await writeFile(
      file,
      `defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind 127.0.0.1:${port}
  default_backend velro
backend velro
  server one 127.0.0.1:${upstream}
`,
    )
    return spawn('haproxy', ['-f', file, '-db'], { stdio: 'ignore' })
  },
}

const curl = (args: readonly string[]) =>
  new Promise<{ code: number | null; output: string }>((resolve) => {
    const child = spawn('curl', [...args], { stdio: ['ignore', 'pipe', 'ignore'] })
    let output = ''
    child.stdout.on('data', (piece) => (output += piece))
    child.once('close', (code) => resolve({ code, output }))
  })

const rows = Buffer.concat(Array.from({ length: side }, () => Buffer.concat([Buffer.from([0]), randomBytes(side * 4)])))
const picture = png(side, side, deflateSync(rows, { level: 0 }))

const run = async (runtime: Runtime, proxy: keyof typeof startProxy): Promise<boolean> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-world-'))
  reapFolder(folder)
  const server = await startServer({ runtime })
  const port = await freePort()
  const child = await startProxy[proxy](folder, port, Number(new URL(server.baseUrl).port))
  reapProcess(child.pid as number)
  const base = `http://127.0.0.1:${port}`
  const answers = () =>
    fetch(`${base}/health`).then(
      ({ ok }) => ok,
      () => false,
    )
  for (const giveUpAt = performance.now() + 10_000; !(await answers()); await Bun.sleep(50)) {
    if (performance.now() > giveUpAt) throw new Error(`${proxy} did not start`)
  }
  const ada = await register(api(base))
  const uploaded = await api(base).post('/api/v1/media', picture, {
    token: ada.token,
    headers: { 'content-type': 'image/png' },
  })
  if (uploaded.status !== 201) throw new Error(`The upload answered ${uploaded.status} ${uploaded.body?.code}`)
  const { body } = await api(base).post(`/api/v1/media/${uploaded.body.id}/links`, {}, { token: ada.token })
  const format = '%{http_code} %{size_download} %header{content-length}'
  const whole = await curl(['-s', '-o', '/dev/null', '-w', format, body.url])
  const broken = curl(['-s', '--limit-rate', '4M', '-o', '/dev/null', '-w', format, body.url])
  await Bun.sleep(1_000)
  await server.kill('SIGKILL')
  const { code, output } = await broken
  // nginx ends its worker processes on SIGTERM only.
  child.kill('SIGTERM')
  await new Promise((resolve) => child.once('close', resolve))
  forgetProcess(child.pid as number)
  const expected = `200 ${picture.length} ${picture.length}`
  const isRight = whole.code === 0 && whole.output === expected && code !== 0 && output.endsWith(` ${picture.length}`)
  console.log(
    `${isRight ? 'ok  ' : 'FAIL'} ${runtime} behind ${proxy}: complete: exit ${whole.code}, ${whole.output}; ` +
      `server killed: exit ${code}, ${output} (status, bytes received, Content-Length)`,
  )
  return isRight
}

const results: boolean[] = []
for (const proxy of ['nginx', 'haproxy'] as const) {
  if (Bun.which(proxy) === null) {
    console.log(`skipped: ${proxy} is not installed`)
    continue
  }
  for (const runtime of ['bun', 'deno'] as const) results.push(await run(runtime, proxy))
}
await reapAll()
process.exit(results.every(Boolean) ? 0 : 1)
