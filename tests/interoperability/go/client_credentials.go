// Asks for a token with golang.org/x/oauth2/clientcredentials and prints what came of it as JSON.
// Usage: client_credentials TOKEN_URL CLIENT_ID CLIENT_SECRET auto|header|params [SCOPE...]
package main

import (
	"context"
	"encoding/json"
	"os"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

var styles = map[string]oauth2.AuthStyle{
	"auto":   oauth2.AuthStyleAutoDetect,
	"header": oauth2.AuthStyleInHeader,
	"params": oauth2.AuthStyleInParams,
}

func main() {
	config := clientcredentials.Config{
		TokenURL:     os.Args[1],
		ClientID:     os.Args[2],
		ClientSecret: os.Args[3],
		AuthStyle:    styles[os.Args[4]],
		Scopes:       os.Args[5:],
	}
	result := map[string]any{}
	token, err := config.Token(context.Background())
	if refused, ok := err.(*oauth2.RetrieveError); ok {
		result["status"] = refused.Response.StatusCode
		result["body"] = string(refused.Body)
	} else if err != nil {
		result["error"] = err.Error()
	} else {
		result["access_token"] = token.AccessToken
		result["token_type"] = token.Type()
		result["expiry"] = token.Expiry.Unix()
		result["valid"] = token.Valid()
	}
	json.NewEncoder(os.Stdout).Encode(result)
}
