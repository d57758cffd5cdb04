import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'

export type MediaRow = {
  id: string
  /** Null, as is `position`, for what its owner uploaded. */
  generation_id: string | null
  owner_id: string
  position: number | null
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
/** An object that is about to be kept, under a claim of this id. */
export type ClaimedObject = ObjectRow & { claim: string }
export type NewMedia = Pick<MediaRow, 'id' | 'generation_id' | 'owner_id' | 'position' | 'sha256'>

type Place = { readonly after: string | null; readonly limit: number }

/**
 * How long taking the bytes of one object away may leave its transaction idle: four times what an S3 service has for an
 * answer (15 s), and all of them are asked at once. A session that ended earlier would let go of the row while bytes are
 * still going, and take those away that somebody keeps anew.
 */
const removalMs = 60_000

export const createMediaStore = (sql: Sql, batch: Sql) => {
  /** Uploads, and what came of generations that are completed: others have none to show. */
  const rows = sql`
    (select m.id, m.generation_id, m.owner_id, m.position, m.sha256, o.content_type, o.bytes, o.width, o.height,
            o.duration_ms, m.created_at
       from media m join media_objects o on o.sha256 = m.sha256
       left join generations g on g.id = m.generation_id
      where m.generation_id is null or g.status = 'completed') media`

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

    /** What a person uploaded, newest first. One row more than `limit`. */
    listUploads: (deadline: Deadline, ownerId: string, { after, limit }: Place): Promise<MediaRow[]> =>
      deadline.run(sql<MediaRow[]>`
        select * from ${rows}
         where generation_id is null and owner_id = ${ownerId} and (${after}::uuid is null or id < ${after}::uuid)
         order by id desc limit ${limit + 1}`),

    /** For an hour nobody takes these away, whether or not they were there. */
    claim: async (objects: readonly ClaimedObject[]): Promise<void> => {
      // Each once, and always in one order, so that two who claim the same wait for each other and nothing worse.
      const once = [...new Map(objects.map(({ claim: _, ...object }) => [object.sha256, object])).values()]
      const sorted = once.toSorted((a, b) => (a.sha256 < b.sha256 ? -1 : 1))
      // One that is there is written again as it is: that holds its row until the claims are there too.
      await batch`
        with kept as (
          insert into media_objects ${batch(sorted, 'sha256', 'content_type', 'bytes', 'width', 'height', 'duration_ms')}
          on conflict (sha256) do update set bytes = excluded.bytes
          returning sha256
        )
        insert into media_claims (id, sha256)
        select claims.id, sha256
          from unnest(${objects.map(({ claim }) => claim)}::uuid[], ${objects.map(({ sha256 }) => sha256)}::text[])
            as claims (id, sha256) join kept using (sha256)`
    },

    /** Gives up claims in favour of what refers to the objects from now on. False: they have come to nothing meanwhile. */
    redeem: async (tx: TransactionSql, claims: readonly string[]): Promise<boolean> => {
      const { count } = await tx`delete from media_claims where id = any (${claims}::uuid[])`
      return count === claims.length
    },

    /** Gives up claims for nothing; the objects are looked at soon. */
    abandon: async (claims: readonly string[]): Promise<void> => {
      await batch`
        with dropped as (delete from media_claims where id = any (${claims}::uuid[]) returning sha256)
        select note_media_orphans((select array_agg(sha256) from dropped))`
    },

    /** The same for claims that are older than may be. */
    abandonOld: async (olderThanMs: number): Promise<void> => {
      await batch`
        with dropped as (
          delete from media_claims
           where claimed_at < clock_timestamp() - ${olderThanMs}::float8 * interval '1 millisecond' returning sha256
        )
        select note_media_orphans((select array_agg(sha256) from dropped))`
    },

    insert: async (tx: TransactionSql, media: readonly NewMedia[]): Promise<void> => {
      await tx`insert into media ${tx(media, 'id', 'generation_id', 'owner_id', 'position', 'sha256')}`
    },

    /** One as it was just written, in the transaction that wrote it. */
    findInserted: async (tx: TransactionSql, id: string): Promise<MediaRow> => {
      const [row] = await tx<MediaRow[]>`select * from ${rows} where id = ${id}`
      return row as MediaRow
    },

    /** Locks the generation that made it, if one did, so that it stays where it is until the end of the transaction. */
    lockGenerationOf: async (tx: TransactionSql, id: string): Promise<void> => {
      await tx`
        select from generations where id = (select generation_id from media where id = ${id}) for no key update`
    },

    /** Whether there was one. Lock its generation first, if it has one. */
    remove: async (tx: TransactionSql, id: string): Promise<boolean> => {
      const { count } = await tx`delete from media where id = ${id}`
      return count === 1
    },

    /** Objects that may be nobody's any more, those first that have been so for longest. */
    listOrphans: async (limit: number): Promise<string[]> => {
      const found = await batch<{ sha256: string }[]>`
        select sha256 from media_orphans order by since limit ${limit}`
      return found.map(({ sha256 }) => sha256)
    },

    /**
     * Lets go of an object, unless it is somebody's after all: asked under the row's lock, for which whoever claims it or
     * refers to it waits. `work` takes the bytes away, within `removalMs`, and settles when nothing of that is under way any
     * more; when it throws, the object stays an orphan. What another instance, or whoever gives it up at this moment, is at
     * is passed over; they see to it. Returns whether it was let go.
     */
    letGo: (sha256: string, work: () => Promise<void>): Promise<boolean> =>
      batch.begin(async (tx) => {
        const { count: locked } = await tx`
          select from media_orphans join media_objects using (sha256) where sha256 = ${sha256} for update skip locked`
        if (locked === 0) return false
        // A statement of its own: it sees what was committed before the locks were had.
        await tx`delete from media_orphans where sha256 = ${sha256}`
        const { count } = await tx`
          delete from media_objects o
           where o.sha256 = ${sha256}
             and not exists (select from media m where m.sha256 = o.sha256)
             and not exists (select from media_claims c where c.sha256 = o.sha256)
             and not exists (select from generation_jobs j where j.reference_sha256 = o.sha256)`
        if (count === 0) return false
        await tx`select set_config('idle_in_transaction_session_timeout', ${String(removalMs)}, true)`
        await work()
        return true
      }) as Promise<boolean>,

    /** Has an orphan wait behind all others, so that one that cannot go keeps nobody from it. */
    putOff: async (sha256: string): Promise<void> => {
      await batch`update media_orphans set since = clock_timestamp() where sha256 = ${sha256}`
    },
  }
}

export type MediaStore = ReturnType<typeof createMediaStore>
