package prewarmer

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBaseURLs(t *testing.T) {
	for given, expected := range map[string]string{
		"http://a:1":              "http://a:1/api/v1",
		"http://a:1/":             "http://a:1/api/v1",
		"https://a/api/v1":        "https://a/api/v1",
		"https://a/api/v1//":      "https://a/api/v1",
		" https://a/prewarmer/\n": "https://a/prewarmer/api/v1",
		"https://[::1]:8080/x y":  "https://[::1]:8080/x%20y/api/v1",
	} {
		if client, err := New(given); err != nil || client.base != expected {
			t.Errorf("%q: %v, %v", given, client, err)
		}
	}
	for _, given := range []string{"", "a:1", "localhost:8080", "ftp://a", "https://", "https://u:hush@a", "https://a?hush=1", "https://a#hush", "https://hush\x7f"} {
		if _, err := New(given); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", given, err)
		}
	}
}

func TestFromEnv(t *testing.T) {
	var authorization, query string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization, query = r.Header.Get("Authorization"), r.URL.RawQuery
		reply(w, 200, `{}`)
	}))
	defer server.Close()
	for _, name := range []string{"PREWARMER_URL", "PREWARMER_TOKEN", "PREWARMER_CA_FILE", "PREWARMER_NAMESPACE"} {
		t.Setenv(name, "")
	}
	if _, err := FromEnv(); err == nil || !strings.Contains(err.Error(), "PREWARMER_URL") {
		t.Errorf("%v", err)
	}
	t.Setenv("PREWARMER_URL", server.URL+"/api/v1/")
	t.Setenv("PREWARMER_TOKEN", testToken+"\n")
	t.Setenv("PREWARMER_NAMESPACE", "bank")
	client, err := FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetStats(context.Background()); err != nil || authorization != "Bearer "+testToken || query != "namespace=bank" {
		t.Errorf("%v, %q, %q", err, authorization, query)
	}
	t.Setenv("PREWARMER_CA_FILE", filepath.Join(t.TempDir(), "none"))
	if _, err := FromEnv(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestCertificateAuthorities(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{}`) }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.crt")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	own := &http.Client{Transport: &http.Transport{}}
	for _, opts := range [][]Option{{WithCAFile(file)}, {WithHTTPClient(own), WithCAFile(file)}} {
		client, _ := clientOf(t, server.URL, opts...)
		if _, err := client.GetStats(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if config := own.Transport.(*http.Transport).TLSClientConfig; config != nil && config.RootCAs != nil {
		t.Error("the caller's transport was changed")
	}
	if err := os.WriteFile(file, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := &http.Client{Transport: http.NewFileTransport(http.Dir("."))}
	for _, opts := range [][]Option{{WithCAFile(file)}, {WithHTTPClient(foreign), WithRootCAs(server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)}} {
		if _, err := New(server.URL, opts...); err == nil {
			t.Error("no error")
		}
	}
}

func TestInvalidOptions(t *testing.T) {
	for name, opt := range map[string]Option{
		"retries": WithRetries(-1), "timeout": WithTimeout(0), "client": WithHTTPClient(nil), "no token": WithToken(" \n"),
		"token": WithToken("hush\nhush"),
	} {
		if _, err := New("http://a", opt); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheTokenIsNeverPrinted(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		// A proxy that repeats the request in its error page.
		reply(w, 403, `{"error":"`+r.Header.Get("Authorization")+`","details":[{"field":"x","message":"`+testToken+`"}]}`)
	})
	_, apiError := client.GetStats(context.Background())
	gone, _ := clientOf(t, "http://127.0.0.1:1", WithRetries(0))
	_, connection := gone.GetStats(context.Background())
	encoded, err := json.Marshal([]any{client})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{string(encoded)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{client, *client, struct{ C *Client }{client}, struct{ c Client }{*client}, apiError, connection, WithToken(testToken)} {
			texts = append(texts, fmt.Sprintf(verb, value))
		}
	}
	for _, text := range texts {
		if strings.Contains(text, "secret") || strings.Contains(text, fmt.Sprintf("%x", testToken)) {
			t.Errorf("%s", text)
		}
	}
	if !strings.Contains(apiError.Error(), "[token]") {
		t.Errorf("%v", apiError)
	}
	if text := fmt.Sprintf("%+v", client); !strings.HasPrefix(text, "prewarmer.Client(http://127.0.0.1:") {
		t.Error(text)
	}
}

func TestRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s came elsewhere with %q", r.Method, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL+"/page?hush=1")
			w.WriteHeader(status)
		})
		_, err := client.GetStats(context.Background())
		if err == nil || !strings.Contains(err.Error(), elsewhere.URL+"/page") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%d: %v", status, err)
		}
		if _, err := client.CreateTask(context.Background(), TaskRequest{}); err == nil {
			t.Errorf("%d: no error", status)
		}
	}
}

func TestRedirectsWithinTheServer(t *testing.T) {
	for status, taken := range map[int]bool{302: false, 307: true} {
		client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v1/tasks" {
				http.Redirect(w, r, "/other", status)
				return
			}
			var task TaskRequest
			if err := json.NewDecoder(r.Body).Decode(&task); err != nil || r.Method != "POST" || r.Header.Get("Authorization") == "" {
				t.Errorf("%s: %v", r.Method, err)
			}
			reply(w, 201, `{"taskId":"t1"}`)
		})
		if _, err := client.CreateTask(context.Background(), TaskRequest{}); (err == nil) != taken {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestRedirectsToPlainHTTP(t *testing.T) {
	first := httptest.NewRequest("GET", "https://a/api/v1/tasks", nil)
	for to, followed := range map[string]bool{"https://a/x": true, "http://a/x": false, "https://a:444/x": false, "https://b.a/x": false} {
		if err := followRedirect(httptest.NewRequest("GET", to, nil), []*http.Request{first}); (err == nil) != followed {
			t.Errorf("%s: %v", to, err)
		}
	}
	many := make([]*http.Request, 6)
	many[0] = first
	if err := followRedirect(first, many); err == nil {
		t.Error("the redirect loop was not detected")
	}
}

func TestTokenSources(t *testing.T) {
	var seen []string
	handler := func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		if len(seen) == 1 {
			reply(w, 503, `{"error":"no"}`)
			return
		}
		reply(w, 200, `{}`)
	}
	n := 0
	client, _ := serve(t, handler, WithTokenSource(func(context.Context) (string, error) { n++; return fmt.Sprint("t", n), nil }))
	if _, err := client.GetStats(context.Background()); err != nil || strings.Join(seen, ",") != "Bearer t1,Bearer t2" {
		t.Errorf("%v, %q", err, seen)
	}
	file := filepath.Join(t.TempDir(), "token")
	client, _ = serve(t, handler, WithTokenSource(TokenFile(file)))
	if _, err := client.GetStats(context.Background()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(file, []byte("renewed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetStats(context.Background()); err != nil || seen[len(seen)-1] != "Bearer renewed" {
		t.Errorf("%v, %q", err, seen)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetStats(context.Background()); err == nil {
		t.Error("an empty token was sent")
	}
}

func TestHeaders(t *testing.T) {
	var header http.Header
	client, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { header = r.Header; reply(w, 200, `{}`) }, WithUserAgent("ci/7"))
	if _, err := client.GetStats(context.Background(), RequestID("r1")); err != nil {
		t.Fatal(err)
	}
	if header.Get("User-Agent") != "ci/7" || header.Get("X-Request-Id") != "r1" || header.Get("Accept") != "application/json" {
		t.Errorf("%v", header)
	}
}
