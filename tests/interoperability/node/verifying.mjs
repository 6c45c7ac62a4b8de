// jose verifies tokens with a key set that it caches by itself. Reads one JSON object a line: the time in seconds, and a
// token; answers each with one line: true, or the code of the error. The time is that of the caller.
import { createInterface } from 'node:readline'
import { createRemoteJWKSet, jwtVerify } from 'jose'

let now = 0
Date.now = () => now

const [jwksUri, issuer, audience] = process.argv.slice(2)
const keys = createRemoteJWKSet(new URL(jwksUri))

for await (const line of createInterface({ input: process.stdin })) {
  const { seconds, token } = JSON.parse(line)
  now = seconds * 1000
  try {
    await jwtVerify(token, keys, { issuer, audience, typ: 'at+jwt', currentDate: new Date(now) })
    console.log('true')
  } catch (error) {
    console.log(JSON.stringify(error.code ?? error.message))
  }
}
