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
	// defaultTimeout is for one try of a call, with its answer. A watch has none.
	defaultTimeout = 30 * time.Second
)

// Option sets up a Client.
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

// WithToken sends this token with every call.
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

// WithTokenSource asks source for a token before each try of a call, for tokens that are renewed.
func WithTokenSource(source func(context.Context) (string, error)) Option {
	return func(c *config) error {
		c.token = source
		return nil
	}
}

// WithCAFile trusts the certificate authorities in this PEM file, and no others.
func WithCAFile(path string) Option {
	return func(c *config) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("the CA file: %w", err)
		}
		c.roots = x509.NewCertPool()
		if !c.roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("the CA file %s holds no certificate in PEM", path)
		}
		return nil
	}
}

// WithRootCAs trusts these certificate authorities, and no others.
func WithRootCAs(pool *x509.CertPool) Option {
	return func(c *config) error {
		c.roots = pool
		return nil
	}
}

// WithHTTPClient uses the transport, cookies and timeout of this client. Its CheckRedirect is not used:
// redirects to another place would carry the token there.
func WithHTTPClient(client *http.Client) Option {
	return func(c *config) error {
		if client == nil {
			return errors.New("WithHTTPClient: the client is nil")
		}
		c.httpClient = client
		return nil
	}
}

// WithRetries sets how often a call is repeated at most; 4 by default, 0 for never.
func WithRetries(n int) Option {
	return func(c *config) error {
		if n < 0 {
			return fmt.Errorf("WithRetries: %d is less than 0", n)
		}
		c.retries = n
		return nil
	}
}

// WithTimeout sets how long one try of a call may take; 30 seconds by default. The context bounds all of them together.
func WithTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithTimeout: %v is not more than 0", d)
		}
		c.timeout = d
		return nil
	}
}

// WithNamespace sets the namespace of calls that name none; [AllNamespaces] undoes it for one call.
func WithNamespace(namespace string) Option {
	return func(c *config) error {
		c.namespace = namespace
		return nil
	}
}

// WithUserAgent names your program in the server's log.
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
		return nil, errors.New("certificate authorities cannot be set on the transport of WithHTTPClient: set them there")
	}
	transport = transport.Clone()
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.RootCAs = c.roots
	client.Transport = transport
	return &client, nil
}
