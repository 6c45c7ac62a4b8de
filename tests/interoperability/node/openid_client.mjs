// openid-client asks for a token by discovery, with one way to authenticate; jose verifies what was minted; and where
// asked to, openid-client introspects and revokes. Reads JSON from standard input, writes JSON.
import { readFileSync } from 'node:fs'
import * as client from 'openid-client'
import { createRemoteJWKSet, importJWK, jwtVerify } from 'jose'
import { Agent, fetch } from 'undici'

const asked = JSON.parse(readFileSync(0))
const { issuer, clientId, method, secret, jwk, certificate, key, algorithm, grantType, parameters, audience } = asked

const methods = {
  client_secret_basic: () => client.ClientSecretBasic(secret),
  client_secret_post: () => client.ClientSecretPost(secret),
  private_key_jwt: async () => client.PrivateKeyJwt({ key: await importJWK(jwk, jwk.alg), kid: jwk.kid }),
  tls_client_auth: () => client.TlsClientAuth(),
  self_signed_tls_client_auth: () => client.TlsClientAuth(),
  none: () => client.None(),
}
const options = { algorithm }
if (certificate) {
  const connect = { cert: readFileSync(certificate), key: readFileSync(key), ca: readFileSync(asked.ca) }
  const dispatcher = new Agent({ connect })
  options[client.customFetch] = (url, request) => fetch(url, { ...request, dispatcher })
}
const authentication = await methods[method]()
const configuration = await client.discovery(new URL(issuer), clientId, undefined, authentication, options)

try {
  const metadata = configuration.serverMetadata()
  const dpop = asked.dpop && client.getDPoPHandle(configuration, await client.randomDPoPKeyPair('ES256'))
  const answer = grantType === 'client_credentials'
    ? await client.clientCredentialsGrant(configuration, parameters, { DPoP: dpop })
    : await client.genericGrantRequest(configuration, grantType, parameters, { DPoP: dpop })
  const verified = { issuer, audience, typ: 'at+jwt' }
  const { payload } = await jwtVerify(answer.access_token, createRemoteJWKSet(new URL(metadata.jwks_uri)), verified)
  const result = { answer, payload }
  if (dpop) result.thumbprint = await dpop.calculateThumbprint()
  if (asked.introspectAs) {
    const [id, word] = asked.introspectAs
    const api = await client.discovery(new URL(issuer), id, undefined, client.ClientSecretBasic(word), { algorithm })
    result.before = await client.tokenIntrospection(api, answer.access_token, { token_type_hint: 'access_token' })
    await client.tokenRevocation(configuration, answer.access_token, { token_type_hint: 'access_token' })
    result.after = await client.tokenIntrospection(api, answer.access_token)
  }
  console.log(JSON.stringify(result))
} catch (error) {
  console.log(JSON.stringify({ error: error.error ?? `${error}: ${error.cause}`, status: error.status }))
}
process.exit() // connections of an agent are kept alive
