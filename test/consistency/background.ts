import { ask, type Ways } from './asking.ts'
import { pick, type Question, randomQuestion, type Scene } from './fixture.ts'
import type { Instance } from './instances.ts'
import type { Witness } from './oracle.ts'

const hotShare = 0.2
const batchSize = 10
/** Nobody catches up on more than this. */
const maxBehindMs = 200

/** Four of five are about one scene of five. */
const popular = (scenes: readonly Scene[]): Scene => {
  const hot = Math.ceil(scenes.length * hotShare)
  return pick(Math.random() < 1 - hotShare ? scenes.slice(0, hot) : scenes.slice(hot))
}

/** One in ten asks for the reasons, which say from which tier the facts came; of the others, most ask for one thing. */
const wayOf = ({ credential, action }: Question): Ways => {
  const roll = Math.random()
  if (credential.kind === 'key' && roll < 0.3) return 'explain'
  if (credential.kind === 'session' && action === 'read' && roll < 0.8) return 'get'
  return roll > 0.85 ? 'batch' : 'check'
}

const fill = (first: Question, scenes: readonly Scene[]): [Question, ...Question[]] => {
  const { asker, credential } = first
  const questions: [Question, ...Question[]] = [first]
  while (questions.length < batchSize) {
    const about = credential.kind === 'key' ? popular(scenes) : asker
    const other = randomQuestion(about)
    if (other === undefined) return questions
    const userId = credential.kind === 'session' ? credential.userId : other.userId
    questions.push({ ...other, asker, credential, userId })
  }
  return questions
}

/** Asks one instance at random, one request after the other, at most one each `everyMs`, until told to end. */
export const askAtRandom = async (
  instance: Instance,
  scenes: readonly Scene[],
  witness: Witness,
  everyMs: number,
  goesOn: () => boolean,
): Promise<void> => {
  let dueMs = performance.now() + Math.random() * everyMs
  while (goesOn()) {
    const early = dueMs - performance.now()
    if (early > 0) await Bun.sleep(early)
    dueMs = Math.max(dueMs + everyMs, performance.now() - maxBehindMs)
    const question = randomQuestion(popular(scenes))
    if (question === undefined) continue
    const way = wayOf(question)
    const questions: [Question, ...Question[]] = way === 'batch' ? fill(question, scenes) : [question]
    const asked = await ask(instance, way, questions)
    witness.judge(questions, asked)
    if (asked.answers[0] === undefined) await Bun.sleep(20)
  }
}
