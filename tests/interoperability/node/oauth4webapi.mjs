// oauth4webapi asks for a token step by step, sends it to an API, and validates it there, as that API would.
// Reads JSON from standard input, writes JSON.
import { readFileSync } from 'node:fs'
import * as oauth from 'oauth4webapi'
import { importJWK } from 'jose'
import { Agent, fetch } from 'undici'

const asked = JSON.parse(readFileSync(0))
const { clientId, method, secret, jwk, certificate, key, algorithm, grantType, parameters, audience } = asked
const issuer = new URL(asked.issuer)

const methods = {
  client_secret_basic: () => oauth.ClientSecretBasic(secret),
  client_secret_post: () => oauth.ClientSecretPost(secret),
  private_key_jwt: async () => oauth.PrivateKeyJwt({ key: await importJWK(jwk, jwk.alg), kid: jwk.kid }),
  tls_client_auth: () => oauth.TlsClientAuth(),
  self_signed_tls_client_auth: () => oauth.TlsClientAuth(),
  none: () => oauth.None(),
}
const options = {}
if (certificate) {
  const connect = { cert: readFileSync(certificate), key: readFileSync(key), ca: readFileSync(asked.ca) }
  const dispatcher = new Agent({ connect })
  options[oauth.customFetch] = (url, request) => fetch(url, { ...request, dispatcher })
}

try {
  const found = await oauth.discoveryRequest(issuer, { algorithm, ...options })
  const server = await oauth.processDiscoveryResponse(issuer, found)
  const client = { client_id: clientId }
  if (asked.dpop) options.DPoP = oauth.DPoP(client, await oauth.generateKeyPair('ES256'))
  const authentication = await methods[method]()
  const request = grantType === 'client_credentials'
    ? oauth.clientCredentialsGrantRequest(server, client, authentication, parameters, options)
    : oauth.genericTokenEndpointRequest(server, client, authentication, grantType, parameters, options)
  const process = grantType === 'client_credentials'
    ? oauth.processClientCredentialsResponse
    : oauth.processGenericTokenEndpointResponse
  const answer = await process(server, client, await request)

  let incoming
  const api = { DPoP: options.DPoP, [oauth.customFetch]: async (url, { method, headers }) => {
    incoming = new Request(url, { method, headers })
    return new Response()
  } }
  const url = new URL('/invoices', audience)
  await oauth.protectedResourceRequest(answer.access_token, 'GET', url, undefined, null, api)
  const payload = await oauth.validateJwtAccessToken(server, incoming, audience)
  console.log(JSON.stringify({ answer, payload }))
} catch (error) {
  console.log(JSON.stringify({ error: error.error ?? `${error}: ${error.cause}`, status: error.status }))
}
process.exit() // connections of an agent are kept alive
