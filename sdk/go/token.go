package prewarmer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// TokenSource returns the token for one attempt of a call.
//
// A Client stores its token only in such a function, so that printing a Client does not print the
// token.
type TokenSource = func(context.Context) (string, error)

// TokenFile returns a source that reads the token from a file for each attempt, such as the service
// account token that Kubernetes renews in a pod.
func TokenFile(path string) TokenSource {
	return func(context.Context) (string, error) {
		text, err := os.ReadFile(path)
		return string(text), err
	}
}

// cleanToken removes surrounding white space and validates the token. Its errors do not contain the
// token.
func cleanToken(token string) (string, error) {
	token = strings.TrimSpace(token)
	if token == "" {
		return "", errors.New("the token is empty")
	}
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return "", errors.New("the token contains invalid characters")
		}
	}
	return token, nil
}

// authorize sets the token in the request, and returns it for redaction of the response.
func (c *Client) authorize(req *http.Request) (string, error) {
	if c.token == nil {
		return "", nil
	}
	raw, err := c.token(req.Context())
	if err != nil {
		return "", fmt.Errorf("prewarmer: cannot obtain a token: %w", err)
	}
	token, err := cleanToken(raw)
	if err != nil {
		return "", fmt.Errorf("prewarmer: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return token, nil
}

// followRedirect follows redirects only within the same server, so that the token is not sent
// elsewhere, and only with the same method, because a POST that becomes a GET is another operation.
func followRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	same := req.URL.Scheme == first.URL.Scheme && req.URL.Host == first.URL.Host
	if !same || req.Method != first.Method || len(via) > 5 {
		return http.ErrUseLastResponse
	}
	return nil
}
