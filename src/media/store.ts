import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'

export type MediaRow = {
  id: string
  generation_id: string
  owner_id: string
  position: number
  sha256: string
  content_type: string
  bytes: number
  width: number
  height: number
  /** Null for pictures. */
  duration_ms: number | null
  created_at: Date
}

export type ObjectRow = Pick<MediaRow, 'sha256' | 'content_type' | 'bytes' | 'width' | 'height' | 'duration_ms'>
export type NewMedia = Pick<MediaRow, 'id' | 'generation_id' | 'owner_id' | 'position' | 'sha256'>

type Place = { readonly after: string | null; readonly limit: number }

export const createMediaStore = (sql: Sql, batch: Sql) => {
  /** Of generations that are completed: others have none to show. */
  const rows = sql`
    (select m.id, m.generation_id, m.owner_id, m.position, m.sha256, o.content_type, o.bytes, o.width, o.height,
            o.duration_ms, m.created_at
       from media m join media_objects o on o.sha256 = m.sha256
       join generations g on g.id = m.generation_id and g.status = 'completed') media`

  return {
    find: async (deadline: Deadline, id: string): Promise<MediaRow | undefined> => {
      const [row] = await deadline.run(sql<MediaRow[]>`select * from ${rows} where id = ${id}`)
      return row
    },

    /** In the order they were made, which is that of their ids. One row more than `limit`. */
    list: (deadline: Deadline, generationId: string, { after, limit }: Place): Promise<MediaRow[]> =>
      deadline.run(sql<MediaRow[]>`
        select * from ${rows}
         where generation_id = ${generationId} and (${after}::uuid is null or id > ${after}::uuid)
         order by id limit ${limit + 1}`),

    /** For an hour and longer nobody takes these away, whether or not they were there. */
    claim: async (objects: readonly ObjectRow[]): Promise<void> => {
      // Each once, and always in one order, so that two who claim the same wait for each other and nothing worse.
      const once = [...new Map(objects.map((object) => [object.sha256, object])).values()]
      const sorted = once.toSorted((a, b) => (a.sha256 < b.sha256 ? -1 : 1))
      await batch`
        insert into media_objects ${batch(sorted, 'sha256', 'content_type', 'bytes', 'width', 'height', 'duration_ms')}
        on conflict (sha256) do update set claimed_at = clock_timestamp()`
    },

    insert: async (tx: TransactionSql, media: readonly NewMedia[]): Promise<void> => {
      await tx`insert into media ${tx(media, 'id', 'generation_id', 'owner_id', 'position', 'sha256')}`
    },

    /** Objects that seem to be nobody's; up to `limit`, those claimed longest ago first. */
    listAbandoned: async (olderThanMs: number, limit: number): Promise<string[]> => {
      const found = await batch<{ sha256: string }[]>`
        select sha256 from media_objects o
         where claimed_at < clock_timestamp() - ${olderThanMs}::float8 * interval '1 millisecond'
           and not exists (select from media m where m.sha256 = o.sha256)
         order by claimed_at limit ${limit}`
      return found.map(({ sha256 }) => sha256)
    },

    /**
     * Lets go of an object, unless it is somebody's after all: asked again under the row's lock, for which whoever claims
     * it or refers to it waits. `work` takes the bytes away; when it throws, the row stays. Returns whether it was let go.
     */
    letGo: (sha256: string, olderThanMs: number, work: () => Promise<void>): Promise<boolean> =>
      batch.begin(async (tx) => {
        const { count: locked } = await tx`
          select from media_objects
           where sha256 = ${sha256} and claimed_at < clock_timestamp() - ${olderThanMs}::float8 * interval '1 millisecond'
             for update skip locked`
        if (locked === 0) return false
        const { count } = await tx`
          delete from media_objects o
           where o.sha256 = ${sha256} and not exists (select from media m where m.sha256 = o.sha256)`
        if (count === 0) return false
        await work()
        return true
      }) as Promise<boolean>,
  }
}

export type MediaStore = ReturnType<typeof createMediaStore>
