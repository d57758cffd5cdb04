import { readFileSync } from 'node:fs'

/** The text of a file; undefined where it cannot be read. */
type ReadText = (path: string) => string | undefined

const readText: ReadText = (path) => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

const toCpus = (quota: string | undefined, period: string | undefined): number[] => {
  const cpus = Number(quota) / Number(period)
  return cpus > 0 && Number.isFinite(cpus) ? [cpus] : []
}

/**
 * How many CPUs the control group of this process may use, as containers set it; undefined without a quota. Once a group has
 * used up its quota, the kernel stops all its threads for up to 0.1 s, whatever their priority.
 */
export const findCpuQuota = (read: ReadText = readText): number | undefined => {
  const groups = (read('/proc/self/cgroup') ?? '').split('\n').map((line) => line.split(':'))
  const pathOf = (isOf: (controllers: string) => boolean) => groups.find(([, of]) => isOf(of ?? '-'))?.[2] ?? ''
  // Within a container the group is often mounted as the root.
  const second = ['', pathOf((of) => of === '')].flatMap((path) =>
    toCpus(...((read(`/sys/fs/cgroup${path}/cpu.max`) ?? '').trim().split(' ') as [string?, string?])),
  )
  const first = ['', pathOf((of) => of.split(',').includes('cpu'))].flatMap((path) => {
    const folder = `/sys/fs/cgroup/cpu${path}`
    return toCpus(read(`${folder}/cpu.cfs_quota_us`), read(`${folder}/cpu.cfs_period_us`))
  })
  const quotas = [...second, ...first]
  return quotas.length === 0 ? undefined : Math.min(...quotas)
}
