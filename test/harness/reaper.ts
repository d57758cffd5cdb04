import { type ChildProcess, spawn } from 'node:child_process'

/**
 * Ends what tests start. Guarantee: when this process is gone, also after kill -9, every process and folder registered here
 * is gone within moments. The reaper is a shell that reads names from a pipe until the pipe ends, and then cleans up. It
 * ignores signals: bun ends all children of a test run when a single test times out.
 */
const script = `
trap '' INT TERM HUP
victims=; clusters=; folders=
while read -r verb name; do
  case $verb in
    cluster) clusters="$clusters $name" ;;
    remove) folders="$folders $name" ;;
    kill) victims="$victims $name " ;;
    forget) victims=$(printf %s "$victims" | sed "s/ $name / /g") ;;
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
/** Counts calls of reapAll. */
let generation = 0

const send = (line: string) => {
  if (shell === undefined) {
    // In a separate session: a Ctrl-C for this process must not end the reaper before its work is done.
    shell = spawn('/bin/sh', ['-c', script], { detached: true, stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' })
    shell.unref()
  }
  shell.stdin?.write(`${line}\n`)
}

/** The folder of an embedded cluster: the server that runs on it is stopped, then the folder is removed. */
export const reapCluster = (folder: string) => send(`cluster ${folder}`)
export const reapFolder = (folder: string) => send(`remove ${folder}`)
export const reapProcess = (pid: number) => send(`kill ${pid}`)
/** The process has ended, and its number may soon be that of another process. */
export const forgetProcess = (pid: number) => send(`forget ${pid}`)

/** Ends everything now and waits until it is gone. */
export const reapAll = async (): Promise<void> => {
  generation++
  const ending = shell
  if (ending === undefined) return
  shell = undefined
  const gone = new Promise((resolve) => ending.once('exit', resolve))
  ending.stdin?.end()
  await gone
}

/** Starts something once for all tests of this process; again after reapAll ended it. */
export const startedOnce = <T>(start: () => Promise<T>): (() => Promise<T>) => {
  let running: { generation: number; started: Promise<T> } | undefined
  return () => {
    if (running?.generation !== generation) running = { generation, started: start() }
    return running.started
  }
}
