package guest

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestWhatNeedsARequest(t *testing.T) {
	for config, want := range map[string][]string{
		`{"name": "a.test"}`: nil,
		`{"name": "{env.X}{file./x}{system.os}{time.now.year}{env.}"}`:                      nil,
		`{"name": "{http.request.host}"}`:                                                   {"http.request.host"},
		`{"sources": [{"name": ["{b}.{a}", {"x": "{a}"}]}], "{key}": 1, "n": 1, "z": null}`: {"a", "b"},
	} {
		var parsed any
		if err := json.Unmarshal([]byte(config), &parsed); err != nil {
			t.Fatal(err)
		}
		if got := RequestPlaceholders(parsed); !slices.Equal(got, want) {
			t.Errorf("%s needs %q, want %q", config, got, want)
		}
	}
}

func TestHowOftenSourcesAreAsked(t *testing.T) {
	for config, want := range map[string]time.Duration{
		`{}`:                      time.Second,
		`{"refresh": "nonsense"}`: time.Second,
		`{"refresh": -5}`:         time.Second,
		`{"refresh": "1m"}`:       time.Second,
		`{"refresh": "300ms"}`:    300 * time.Millisecond,
		`{"refresh": 500000000}`:  500 * time.Millisecond,
		`{"refresh": 1}`:          100 * time.Millisecond,
	} {
		var parsed map[string]any
		if err := json.Unmarshal([]byte(config), &parsed); err != nil {
			t.Fatal(err)
		}
		if got := pollEvery(parsed); got != want {
			t.Errorf("%s is asked every %v, want %v", config, got, want)
		}
	}
}

func TestMultiIsItsParts(t *testing.T) {
	const a, b, c = `{"source": "a"}`, `{"source": "srv"}`, `{"source": "other", "n": 1}`
	for config, want := range map[string][]string{
		c: {c},
		`{"source": "multi", "sources": [` + a + `, {"source": "multi", "sources": [` + b + `, ` + c + `]}]}`: {a, b, c},
	} {
		raws, err := SplitSources("sources", []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, raw := range raws {
			got = append(got, string(raw))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", config, got, want)
		}
	}
	for config, want := range map[string]string{
		`{}`: "sources: source: is empty; name a module, such as a or srv",
		`{"source": "websocket_proxy"}`: "sources: websocket_proxy is for reverse_proxy; " +
			"give this handler the upstreams themselves",
		`{"source": "multi", "sources": [` + a + `, {"source": "multi"}]}`: "sources.sources[1]: multi has no sources; " +
			"give it some, such as a or srv",
	} {
		if _, err := SplitSources("sources", []byte(config)); err == nil || err.Error() != want {
			t.Errorf("%s is refused with %v, want %s", config, err, want)
		}
	}
}

// What is known of a name is used until it is asked for again, which is later
// than when it is due.
func TestNamesAreLookedUpInTime(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for config, want := range map[string]time.Duration{
		`{"source": "a", "name": "up.test", "port": "80"}`:                                 59 * time.Second,
		`{"source": "srv", "name": "up.test", "refresh": "10s"}`:                           9 * time.Second,
		`{"source": "a", "name": "up.test", "port": "80", "refresh": "500ms"}`:             1,
		`{"source": "a", "name": "{http.request.host}", "port": "80", "refresh": "500ms"}`: 500 * time.Millisecond,
	} {
		all, err := LoadSources(ctx, "sources", json.RawMessage(config), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got caddy.Duration
		switch m := all[0].module.(type) {
		case *reverseproxy.AUpstreams:
			got = m.Refresh
		case *reverseproxy.SRVUpstreams:
			got = m.Refresh
		}
		if time.Duration(got) != want {
			t.Errorf("%s keeps what it knows for %v, want %v", config, time.Duration(got), want)
		}
	}
}
