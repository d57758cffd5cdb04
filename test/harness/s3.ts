import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { S3Options } from '../../src/platform/s3-objects.ts'
import { forgetProcess, reapFolder, reapProcess } from './reaper.ts'
import { freePort } from './redis.ts'

/** The path of versitygw, if installed. Tests do not install it: compiling takes minutes. `.ci/run` does. */
export const findS3Server = (): string | undefined => {
  const built = join(process.env['GOPATH'] ?? join(homedir(), 'go'), 'bin', 'versitygw')
  return Bun.which('versitygw') ?? (existsSync(built) ? built : undefined)
}

export const noS3Server = 'versitygw is not installed: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0'

/** A real S3 server over a new folder, with one empty bucket. */
export const startS3 = async (program: string): Promise<S3Options & { stop(): Promise<void> }> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-s3-'))
  reapFolder(folder)
  const [root, sidecar] = [join(folder, 'root'), join(folder, 'sidecar')]
  await mkdir(join(root, 'velro'), { recursive: true })
  await mkdir(sidecar)
  const port = await freePort()
  const options = {
    endpoint: `http://127.0.0.1:${port}`,
    region: 'us-east-1',
    bucket: 'velro',
    accessKeyId: 'velro-test',
    secretAccessKey: 'velro-test-secret',
  }
  const flags = ['--access', options.accessKeyId, '--secret', options.secretAccessKey, '--port', `127.0.0.1:${port}`]
  const child = spawn(program, [...flags, '--quiet', 'posix', '--sidecar', sidecar, root], {
    stdio: 'ignore',
    cwd: '/',
  })
  const pid = child.pid as number
  reapProcess(pid)
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const answers = () =>
    fetch(options.endpoint).then(
      () => true,
      () => false,
    )
  for (const giveUpAt = performance.now() + 20_000; !(await answers()); await Bun.sleep(20)) {
    if (performance.now() > giveUpAt || child.exitCode !== null) throw new Error(`${program} did not start`)
  }
  return {
    ...options,
    stop: async () => {
      child.kill('SIGKILL')
      await ended
      forgetProcess(pid)
      await rm(folder, { recursive: true, force: true })
    },
  }
}
