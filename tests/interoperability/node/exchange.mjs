// openid-client exchanges a token, jose verifies what was minted. Reads JSON from standard input, writes JSON.
import * as client from 'openid-client'
import { createRemoteJWKSet, jwtVerify } from 'jose'

const chunks = []
for await (const chunk of process.stdin) chunks.push(chunk)
const { issuer, algorithm, grantType, parameters, audience } = JSON.parse(Buffer.concat(chunks))

const configuration = await client.discovery(new URL(issuer), 'invoicer', undefined, client.None(), {
  algorithm,
  execute: [client.allowInsecureRequests],
})
try {
  const answer = await client.genericGrantRequest(configuration, grantType, parameters)
  const keys = createRemoteJWKSet(new URL(configuration.serverMetadata().jwks_uri))
  const { payload } = await jwtVerify(answer.access_token, keys, { issuer, audience, typ: 'at+jwt' })
  console.log(JSON.stringify({ answer, payload }))
} catch (error) {
  console.log(JSON.stringify({ error: error.error, description: error.error_description, status: error.status }))
}
