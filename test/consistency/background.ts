import { type Fixture, pick, type Question, randomQuestion } from './fixture.ts'
import type { Instance } from './instances.ts'
import { type Endpoint, observe } from './observation.ts'
import type { Oracle } from './oracle.ts'

const hotShare = 0.2
const batchSize = 10
/** A worker that fell behind its rate catches up on at most this. */
const maxBehindMs = 200

/** 80 % of the questions are about 20 % of the fixtures. */
const pickPopular = (fixtures: readonly Fixture[]): Fixture => {
  const hot = Math.ceil(fixtures.length * hotShare)
  return pick(Math.random() < 1 - hotShare ? fixtures.slice(0, hot) : fixtures.slice(hot))
}

/** The mix of requests. Explanations are among them because they name the tier of the facts. */
const endpointOf = ({ credential, action }: Question): Endpoint => {
  const roll = Math.random()
  if (credential.kind === 'key' && roll < 0.3) return 'explain'
  if (credential.kind === 'session' && action === 'read' && roll < 0.8) return 'get'
  return roll > 0.85 ? 'batch' : 'check'
}

const fillBatch = (first: Question, fixtures: readonly Fixture[]): [Question, ...Question[]] => {
  const { credentialFixture, credential } = first
  const questions: [Question, ...Question[]] = [first]
  while (questions.length < batchSize) {
    const resourceFixture = credential.kind === 'key' ? pickPopular(fixtures) : credentialFixture
    const other = randomQuestion(resourceFixture)
    if (other === undefined) return questions
    const userId = credential.kind === 'session' ? credential.userId : other.userId
    questions.push({ ...other, credentialFixture, credential, userId })
  }
  return questions
}

/** Sends random requests to one instance, one after the other, at most one each `everyMs`, while running. */
export const sendRandomRequests = async (
  instance: Instance,
  fixtures: readonly Fixture[],
  oracle: Oracle,
  everyMs: number,
  isRunning: () => boolean,
): Promise<void> => {
  let dueMs = performance.now() + Math.random() * everyMs
  while (isRunning()) {
    const early = dueMs - performance.now()
    if (early > 0) await Bun.sleep(early)
    dueMs = Math.max(dueMs + everyMs, performance.now() - maxBehindMs)
    const question = randomQuestion(pickPopular(fixtures))
    if (question === undefined) continue
    const endpoint = endpointOf(question)
    const questions: [Question, ...Question[]] = endpoint === 'batch' ? fillBatch(question, fixtures) : [question]
    const observation = await observe(instance, endpoint, questions)
    oracle.judge(questions, observation)
    if (observation.answers[0] === undefined) await Bun.sleep(20)
  }
}
