package prewarmer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// TokenSource gives the token for one try of a call.
//
// A Client holds its token in such a function only: nothing that prints the Client's memory prints a function's.
type TokenSource = func(context.Context) (string, error)

// TokenFile reads the token from a file each time, such as the token that Kubernetes renews in a pod.
func TokenFile(path string) TokenSource {
	return func(context.Context) (string, error) {
		text, err := os.ReadFile(path)
		return string(text), err
	}
}

// cleanToken takes the newline of a file away. Its errors do not show the token.
func cleanToken(token string) (string, error) {
	token = strings.TrimSpace(token)
	if token == "" {
		return "", errors.New("the token is empty")
	}
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return "", errors.New("the token has characters that no token has")
		}
	}
	return token, nil
}

// authorize puts the token into the request, and gives it back for the answer's redaction.
func (c *Client) authorize(req *http.Request) (string, error) {
	if c.token == nil {
		return "", nil
	}
	raw, err := c.token(req.Context())
	if err != nil {
		return "", fmt.Errorf("prewarmer: no token: %w", err)
	}
	token, err := cleanToken(raw)
	if err != nil {
		return "", fmt.Errorf("prewarmer: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return token, nil
}

// followRedirect follows within the same server only, and only where the method stays: the token is nobody else's, and a
// POST that became a GET would be answered by something else.
func followRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	same := req.URL.Scheme == first.URL.Scheme && req.URL.Host == first.URL.Host
	if !same || req.Method != first.Method || len(via) > 5 {
		return http.ErrUseLastResponse
	}
	return nil
}
