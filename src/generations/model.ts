import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../schema.ts'

export const statuses = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const

export const generationParams = closed({ generation_id: id('Generation') })

export const newGeneration = closed({
  project_id: t.Optional(id('Project it is made in; without one it is the owner’s alone')),
  model: t.String({ minLength: 1, maxLength: 128, pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]*$' }),
  prompt: text(1, 4000),
})
export type NewGeneration = Static<typeof newGeneration>

export const generationQuery = closed({ ...pageQuery, project_id: t.Optional(id('Only generations of this project')) })

export const generation = closed({
  id: id('Generation'),
  owner_id: id('User'),
  project_id: t.Union([id('Project'), t.Null()]),
  model: t.String(),
  prompt: t.String(),
  status: oneOf(statuses),
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type Generation = Static<typeof generation>
export const generationPage = pageOf(generation)
