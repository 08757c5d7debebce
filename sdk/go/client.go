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

// apiPath ends every base URL.
const apiPath = "/api/v1"

// Client calls one Prewarmer. Make it by [New] or [FromEnv].
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

// New makes a client of the Prewarmer at baseURL, such as https://prewarmer.example.com; /api/v1 at its end is optional.
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

// FromEnv makes a client of PREWARMER_URL, with the token PREWARMER_TOKEN and the CA in the file PREWARMER_CA_FILE where they
// are set. PREWARMER_NAMESPACE is as [WithNamespace]. The options come after the environment: WithNamespace("") undoes the latter.
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

// String names the server. It has no secret, and neither has any other way to print a Client.
func (c Client) String() string { return "prewarmer.Client(" + c.base + ")" }

// Format prints String for every verb, so that %+v and %#v show nothing else.
func (c Client) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, c.String()) }

// parseBase keeps what was given out of its errors: people put passwords into URLs.
func parseBase(baseURL string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(baseURL))
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "", errors.New("prewarmer: the base URL is no http or https URL, such as https://prewarmer.example.com")
	case u.User != nil:
		return "", errors.New("prewarmer: the base URL names a user; give the token by WithToken")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("prewarmer: the base URL has a query or a fragment")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(path, apiPath) + apiPath, nil
}
