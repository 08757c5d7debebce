package prewarmer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

const (
	defaultRetries = 4
	// defaultTimeout applies to one attempt of a call, including its response. Watches have no
	// timeout.
	defaultTimeout = 30 * time.Second
)

// Option configures a Client.
type Option func(*config) error

type config struct {
	token      TokenSource
	roots      *x509.CertPool
	httpClient *http.Client
	namespace  string
	userAgent  string
	retries    int
	timeout    time.Duration
}

// WithToken authenticates every call with this token.
func WithToken(token string) Option {
	return func(c *config) error {
		clean, err := cleanToken(token)
		if err != nil {
			return err
		}
		c.token = func(context.Context) (string, error) { return clean, nil }
		return nil
	}
}

// WithTokenSource calls source for a token before each attempt of a call, for tokens that are
// renewed.
func WithTokenSource(source func(context.Context) (string, error)) Option {
	return func(c *config) error {
		c.token = source
		return nil
	}
}

// WithCAFile trusts only the certificate authorities in this PEM file.
func WithCAFile(path string) Option {
	return func(c *config) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("CA file: %w", err)
		}
		c.roots = x509.NewCertPool()
		if !c.roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("CA file %s: no PEM certificate found", path)
		}
		return nil
	}
}

// WithRootCAs trusts only these certificate authorities.
func WithRootCAs(pool *x509.CertPool) Option {
	return func(c *config) error {
		c.roots = pool
		return nil
	}
}

// WithHTTPClient uses the transport, cookies and timeout of this client. Its CheckRedirect is not
// used, because redirects to other servers would send the token there.
func WithHTTPClient(client *http.Client) Option {
	return func(c *config) error {
		if client == nil {
			return errors.New("WithHTTPClient: the client is nil")
		}
		c.httpClient = client
		return nil
	}
}

// WithRetries sets the maximum number of retries of a call, by default 4; 0 disables retries.
func WithRetries(n int) Option {
	return func(c *config) error {
		if n < 0 {
			return fmt.Errorf("WithRetries: expected 0 or more, got %d", n)
		}
		c.retries = n
		return nil
	}
}

// WithTimeout sets the timeout of one attempt of a call, by default 30 seconds. The context limits
// all attempts together.
func WithTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithTimeout: expected more than 0, got %v", d)
		}
		c.timeout = d
		return nil
	}
}

// WithNamespace sets the default namespace of calls; [AllNamespaces] overrides it for one call.
func WithNamespace(namespace string) Option {
	return func(c *config) error {
		c.namespace = namespace
		return nil
	}
}

// WithUserAgent sets the header User-Agent, which identifies the program in the server's log.
func WithUserAgent(name string) Option {
	return func(c *config) error {
		c.userAgent = name
		return nil
	}
}

func (c *config) newHTTPClient() (*http.Client, error) {
	client := http.Client{}
	if c.httpClient != nil {
		client = *c.httpClient
	}
	client.CheckRedirect = followRedirect
	if c.roots == nil {
		return &client, nil
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		return nil, errors.New("certificate authorities cannot be set on the custom transport of WithHTTPClient; configure them there")
	}
	transport = transport.Clone()
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.RootCAs = c.roots
	client.Transport = transport
	return &client, nil
}
