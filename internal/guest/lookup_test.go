package guest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// sourceFunc is a source of upstreams.
type sourceFunc func(*http.Request) ([]*reverseproxy.Upstream, error)

func (f sourceFunc) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) { return f(r) }

// newSource makes a source whose addresses are what they look like, unless they are bad.
func newSource(f sourceFunc, placeholders ...string) *Source {
	return &Source{module: f, placeholders: placeholders, parse: func(dial string) (upstream.Address, error) {
		if dial == "bad" {
			return upstream.Address{}, errors.New("no address")
		}
		return upstream.Address{Network: "tcp", HostPort: strings.ToLower(dial)}, nil
	}}
}

func TestWhatALookupFinds(t *testing.T) {
	s := newSource(func(*http.Request) ([]*reverseproxy.Upstream, error) {
		return []*reverseproxy.Upstream{{Dial: "A:1"}, nil, {Dial: "{b}:1"}, {Dial: "bad"}, {Dial: "c:1"}}, nil
	})
	found, unusable, err := s.Config(nil).Lookup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var keys, dials []string
	for _, e := range found {
		keys, dials = append(keys, e.Key()), append(dials, e.Dial)
	}
	if want := []string{"a:1", "c:1"}; !slices.Equal(keys, want) {
		t.Errorf("the addresses are %q, want %q", keys, want)
	}
	if want := []string{"A:1", "c:1"}; !slices.Equal(dials, want) {
		t.Errorf("they are spelled %q, want %q", dials, want)
	}
	if want := []string{"an upstream is null", `"{b}:1" has a placeholder`, `"bad": no address`}; !slices.Equal(unusable, want) {
		t.Errorf("unusable are %q, want %q", unusable, want)
	}
}

// A source that is asked in handshakes cannot be asked in the background.
func TestSourceThatNeedsARequestHasNoLookup(t *testing.T) {
	if newSource(nil, "http.request.host").Config(nil).Lookup != nil {
		t.Error("it would be asked in the background")
	}
}

// A source may hold the request that it is asked with longer than the client's lives, whose
// placeholders and variables belong to its handlers.
func TestLookupInAHandshakeHasARequestOfItsOwn(t *testing.T) {
	repl := caddy.NewReplacer()
	client := httptest.NewRequest(http.MethodGet, "/chat", strings.NewReader("body"))
	client = caddyhttp.PrepareRequest(client, repl, nil, new(caddyhttp.Server))
	repl.Set("room", "1")
	caddyhttp.SetVar(client.Context(), "room", "1")
	var asked *http.Request
	lookup := newSource(func(r *http.Request) ([]*reverseproxy.Upstream, error) {
		asked = r
		return nil, context.Cause(r.Context())
	}, "room").LookupFor(client)

	repl.Set("room", "2")
	caddyhttp.SetVar(client.Context(), "room", "2")
	client.Header.Set("Room", "2")
	over, end := context.WithCancelCause(t.Context())
	timedOut := errors.New("timed out")
	end(timedOut)
	if _, _, err := lookup(over); !errors.Is(err, timedOut) {
		t.Errorf("the lookup ends with %v, want the error of its context", err)
	}
	theirs, _ := asked.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if got := theirs.ReplaceAll("{room}", ""); got != "1" {
		t.Errorf("the placeholder is %q, want that of the handshake", got)
	}
	if got := caddyhttp.GetVar(asked.Context(), "room"); got != "1" {
		t.Errorf("the variable is %v, want that of the handshake", got)
	}
	if got := asked.Header.Get("Room"); got != "" || asked.URL.Path != "/chat" || asked.Body != http.NoBody {
		t.Errorf("the request has Room %q, path %s and body %v", got, asked.URL.Path, asked.Body)
	}
}
