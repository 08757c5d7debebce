package prewarmer

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// apiPath is the last part of every base URL.
const apiPath = "/api/v1"

// Client is a client of one Prewarmer server. Create it with [New] or [FromEnv].
type Client struct {
	base      string
	http      *http.Client
	token     TokenSource
	namespace string
	userAgent string
	retries   int
	timeout   time.Duration
	clock     clock
}

// New returns a client for the server at baseURL, such as https://prewarmer.example.com, with or
// without /api/v1.
func New(baseURL string, opts ...Option) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	settings := config{retries: defaultRetries, timeout: defaultTimeout, userAgent: "prewarmer-go"}
	for _, opt := range opts {
		if err := opt(&settings); err != nil {
			return nil, fmt.Errorf("prewarmer: %w", err)
		}
	}
	httpClient, err := settings.newHTTPClient()
	if err != nil {
		return nil, fmt.Errorf("prewarmer: %w", err)
	}
	return &Client{
		base:      base,
		http:      httpClient,
		token:     settings.token,
		namespace: settings.namespace,
		userAgent: settings.userAgent,
		retries:   settings.retries,
		timeout:   settings.timeout,
		clock:     clock{now: time.Now, sleep: sleep, random: rand.Float64, silence: silence},
	}, nil
}

// FromEnv returns a client for the server at PREWARMER_URL. PREWARMER_TOKEN, PREWARMER_CA_FILE and
// PREWARMER_NAMESPACE correspond to [WithToken], [WithCAFile] and [WithNamespace]. Options override
// the environment: WithNamespace("") unsets the namespace.
func FromEnv(opts ...Option) (*Client, error) {
	baseURL := os.Getenv("PREWARMER_URL")
	if baseURL == "" {
		return nil, errors.New("prewarmer: set PREWARMER_URL, such as https://prewarmer.example.com")
	}
	var env []Option
	for name, option := range map[string]func(string) Option{
		"PREWARMER_TOKEN":     WithToken,
		"PREWARMER_CA_FILE":   WithCAFile,
		"PREWARMER_NAMESPACE": WithNamespace,
	} {
		if value := os.Getenv(name); value != "" {
			env = append(env, option(value))
		}
	}
	return New(baseURL, append(env, opts...)...)
}

// String returns the URL of the server. Neither this nor any other format of a Client contains
// secrets.
func (c Client) String() string { return "prewarmer.Client(" + c.base + ")" }

// Format writes String for every verb, so that %+v and %#v do not print fields.
func (c Client) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, c.String()) }

// parseBase parses a base URL. Its errors do not contain the URL, which may contain a password.
func parseBase(baseURL string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(baseURL))
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "", errors.New("prewarmer: the base URL must be an http or https URL, such as https://prewarmer.example.com")
	case u.User != nil:
		return "", errors.New("prewarmer: the base URL must not contain a user; set the token with WithToken")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("prewarmer: the base URL must not contain a query or a fragment")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(path, apiPath) + apiPath, nil
}
