import { type ChildProcess, spawn } from 'node:child_process'

/**
 * Ends what tests start. Promise: when this process is gone, kill -9 included, every process and folder it named here is
 * gone within moments too. It is a shell that reads names from a pipe until the pipe ends, and then does its work. It
 * listens to no signal: bun ends all children of a test run when a single test takes too long.
 */
const script = `
trap '' INT TERM HUP
victims=; clusters=; folders=
while read -r verb what; do
  case $verb in
    cluster) clusters="$clusters $what" ;;
    remove) folders="$folders $what" ;;
    kill) victims="$victims $what " ;;
    forget) victims=$(printf %s "$victims" | sed "s/ $what / /g") ;;
  esac
done
for pid in $victims; do kill -9 "$pid"; done
for folder in $clusters; do
  read -r pid < "$folder/data/postmaster.pid" && kill -QUIT "$pid" && victims="$victims $pid"
done
tries=0
for pid in $victims; do
  while kill -0 "$pid" && [ $tries -lt 500 ]; do sleep 0.01; tries=$((tries + 1)); done
done
rm -rf $folders $clusters
`

let shell: ChildProcess | undefined

const tell = (line: string) => {
  if (shell === undefined) {
    // A session of its own: a Ctrl-C for us must not end it before its work is done.
    shell = spawn('/bin/sh', ['-c', script], { detached: true, stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' })
    shell.unref()
  }
  shell.stdin?.write(`${line}\n`)
}

/** The folder of an embedded cluster: whatever server runs on it is stopped, then the folder goes. */
export const reapCluster = (folder: string) => tell(`cluster ${folder}`)
export const reapFolder = (folder: string) => tell(`remove ${folder}`)
export const reapProcess = (pid: number) => tell(`kill ${pid}`)
/** The process has ended and its number may soon be another's. */
export const forgetProcess = (pid: number) => tell(`forget ${pid}`)

/** Ends everything now and waits until it is gone. */
export const reapAll = async (): Promise<void> => {
  const ending = shell
  if (ending === undefined) return
  shell = undefined
  const gone = new Promise((resolve) => ending.once('exit', resolve))
  ending.stdin?.end()
  await gone
}
