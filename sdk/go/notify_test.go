package prewarmer

import (
	"encoding/json"
	"testing"
)

// The server rejects a notification with both url and urlFrom, so unset fields must not be sent.
func TestNotifyRequestSendsOneAddress(t *testing.T) {
	source := UrlSource{SecretKeyRef: SecretKeyReference{Name: "slack", Key: "url"}}
	for want, one := range map[string]NotifyRequest{
		`{"url":"https://hooks.example.com/x"}`:                     {URL: "https://hooks.example.com/x"},
		`{"urlFrom":{"secretKeyRef":{"name":"slack","key":"url"}}}`: {URLFrom: source},
	} {
		got, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
			t.Fatal(string(got))
		}
		if x, y := mustJSON(t, a), mustJSON(t, b); x != y {
			t.Errorf("%s, want %s", x, y)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
