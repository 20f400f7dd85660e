package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// fakeTunnel is one with this id.
type fakeTunnel string

func (t fakeTunnel) ID() string             { return string(t) }
func (t fakeTunnel) Info(time.Time) Tunnel  { return Tunnel{ID: string(t)} }
func (fakeTunnel) Close(uint16, string)     { panic("a tunnel is closed") }
func (fakeTunnel) Renew(time.Duration) bool { panic("a tunnel is renewed") }

// untouched is a backend that has the tunnel one and the upstream up:1, of which
// nothing may be changed.
type untouched struct{}

func (untouched) Tunnels(*Filter) []LiveTunnel { return []LiveTunnel{fakeTunnel("one")} }

func (untouched) Tunnel(id string) (LiveTunnel, bool) { return fakeTunnel(id), id == "one" }

func (untouched) Close([]LiveTunnel, time.Duration, uint16, string) { panic("tunnels are closed") }

func (untouched) Upstreams() []Upstream { return nil }

func (untouched) Upstream(address string) (Upstream, bool) {
	return Upstream{}, address == "up:1"
}

func (untouched) SetState(context.Context, string, upstream.State) (bool, error) {
	panic("a state is set")
}

// request does a request to an API and returns what is answered.
func request(api http.Handler, method, path, body string) (w *httptest.ResponseRecorder, answer string) {
	w = httptest.NewRecorder()
	api.ServeHTTP(w, httptest.NewRequest(method, Prefix+path, strings.NewReader(body)))
	return w, w.Body.String()
}

// newAPI returns the API of a backend. Refusals are answered with their text.
func newAPI(b Backend) http.Handler {
	mux := http.NewServeMux()
	for _, route := range Routes(b) {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.ServeHTTP(w, r)
			var refusal *Error
			switch {
			case errors.As(err, &refusal):
				http.Error(w, refusal.Error(), refusal.Status)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	return mux
}

func TestBadRequestsAreRefused(t *testing.T) {
	api := newAPI(untouched{})
	tooLong := strings.Repeat("x", tunnel.MaxLabelValue+1)
	set := func(rest string) string { return `{"address": "up:1", ` + rest + `}` }
	for _, bad := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "", "", 404, "/websocket_proxy/upstreams"},
		{"GET", "tunnel", "", 404, "/websocket_proxy/tunnels"},
		{"GET", "tunnels/none", "", 404, `no tunnel "none"`},
		{"GET", "tunnels?upstrem=x", "", 400, `not "upstrem"`},
		{"GET", "tunnels?upstream=x&upstream=y", "", 400, "2 times"},
		{"GET", "tunnels?client=%zz", "", 400, "reading the parameters"},
		{"GET", "tunnels?client=10.0.0.0/33", "", 400, "CIDR"},
		{"GET", "tunnels?client=localhost", "", 400, "IP address"},
		{"GET", "tunnels?limit=0", "", 400, "limit"},
		{"GET", "tunnels?limit=many", "", 400, "limit"},
		{"GET", "tunnels/one?code=1000", "", 400, "no parameters"},
		{"GET", "upstreams?state=drain", "", 400, "no parameters"},
		{"DELETE", "tunnels/none", "", 404, "may have ended"},
		{"DELETE", "tunnels/one?code=1005", "", 400, "1005 is not allowed"},
		{"DELETE", "tunnels/one?code=1016", "", 400, "1016 is not allowed"},
		{"DELETE", "tunnels/one?code=0", "", 400, "0 is not allowed"},
		{"DELETE", "tunnels/one?code=-1", "", 400, "-1 is not allowed"},
		{"DELETE", "tunnels/one?code=66536", "", 400, "66536 is not allowed"},
		{"DELETE", "tunnels/one?code=bye", "", 400, "code is a number"},
		{"DELETE", "tunnels/one?reason=" + strings.Repeat("x", 124), "", 400, "124 bytes"},
		{"DELETE", "tunnels/one?reason=%ff", "", 400, "UTF-8"},
		{"DELETE", "tunnels/one?all=true", "", 400, `not "all"`},
		{"POST", "tunnels/close", "", 400, "EOF"},
		{"POST", "tunnels/close", "{}", 400, "which tunnels"},
		{"POST", "tunnels/close", "null", 400, "which tunnels"},
		{"POST", "tunnels/close", `[]`, 400, "JSON object"},
		{"POST", "tunnels/close", `{"all": true} {}`, 400, "follows"},
		{"POST", "tunnels/close", `{"all": true, "handler": "x"}`, 400, "which tunnels"},
		{"POST", "tunnels/close", `{"al": true}`, 400, `"al"`},
		{"POST", "tunnels/close", `{"all": true, "code": 0}`, 400, "0 is not allowed"},
		{"POST", "tunnels/close", `{"all": true, "code": 1006}`, 400, "1006 is not allowed"},
		{"POST", "tunnels/close", `{"all": true, "period": -1}`, 400, "period"},
		{"POST", "tunnels/close", `{"all": true, "period": 86401}`, 400, "86400"},
		{"POST", "tunnels/close", `{"client": "x"}`, 400, "IP address"},
		{"GET", "tunnels?label=user=" + tooLong, "", 400, "label user has a value of 129 bytes"},
		{"GET", "tunnels?group=client&label=user=" + tooLong, "", 400, "label user has a value of 129 bytes"},
		{"POST", "tunnels/close", `{"labels": {"user": "` + tooLong + `"}}`, 400, "tunnels keep at most 128"},
		{"POST", "tunnels/renew", `{"labels": {"user": "` + tooLong + `"}, "expires": "1h"}`, 400, "tunnels keep at most 128"},
		{"POST", "tunnels/close", `{"handler": "` + strings.Repeat("x", maxBody) + `"}`, 400, "EOF"},
		{"POST", "upstreams/state", `{"address": "none:1", "state": "drain"}`, 404, `no upstream "none:1"`},
		{"POST", "upstreams/state", set(`"state": "down"`), 400, "ready, drain, maint or evict"},
		{"POST", "upstreams/state", set(`"state": "drain", "period": 1`), 400, "evict"},
		{"POST", "upstreams/state", set(`"state": "maint", "period": 1`), 400, "evict"},
		{"POST", "upstreams/state", set(`"state": "evict", "period": -1`), 400, "period"},
		{"POST", "upstreams/state", set(`"state": "evict", "expires_in": 0`), 400, "more than 0"},
		{"POST", "upstreams/state", set(`"state": "evict", "expires_in": 1e300`), 400, "expires_in"},
		{"POST", "upstreams/state", set(`"state": "ready", "expires_in": 5`), 400, "does not expire"},
		{"POST", "upstreams/state", set(`"state": "drain", "by": "a\tb"`), 400, "by is a name"},
		{"POST", "upstreams/state", set(`"state": "drain", "by": "a\u009b31m"`), 400, "by is a name"},
		{"POST", "upstreams/state", set(`"state": "drain", "by": "\u202eb"`), 400, "by is a name"},
		{"POST", "upstreams/state", set(`"state": "drain", "by": "c\u007f"`), 400, "by is a name"},
		{"POST", "upstreams/state", set(`"status": "drain"`), 400, `"status"`},
	} {
		w, answer := request(api, bad.method, bad.path, bad.body)
		if w.Code != bad.status || !strings.Contains(answer, bad.says) {
			t.Errorf("%s %s %.60s: %d %s, want %d with %s",
				bad.method, bad.path, bad.body, w.Code, answer, bad.status, bad.says)
		}
	}
}

func TestMethodsOfPaths(t *testing.T) {
	api := newAPI(untouched{})
	for path, allowed := range map[string]string{
		"upstreams":       "GET",
		"upstreams/state": "POST",
		"tunnels":         "GET",
		"tunnels/x":       "DELETE, GET",
		"tunnels/close":   "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "DRAIN"} {
			w, answer := request(api, method, path, "")
			asGet := strings.Replace(method, "HEAD", "GET", 1)
			if slices.Contains(strings.Split(allowed, ", "), asGet) {
				if w.Code == http.StatusMethodNotAllowed {
					t.Errorf("%s %s is not allowed", method, path)
				}
				continue
			}
			if got := w.Header().Get("Allow"); w.Code != http.StatusMethodNotAllowed || got != allowed {
				t.Errorf("%s %s: status %d, Allow: %s; want 405 and %s", method, path, w.Code, got, allowed)
			}
			if !strings.HasPrefix(answer, "the method is ") {
				t.Errorf("%s %s: the answer %q has no cause", method, path, answer)
			}
		}
	}
}

func TestStatesThatOperatorsGive(t *testing.T) {
	now, after := time.Now(), 60.0
	for _, state := range []string{upstream.Ready, upstream.Drain, upstream.Maint, upstream.Evict} {
		req := StateRequest{Address: "a:1", State: state, By: "me"}
		want := upstream.State{State: state, By: "me", At: now}
		if state != upstream.Ready {
			req.ExpiresIn, want.Expires = &after, now.Add(time.Minute)
		}
		if got, err := req.state(now); err != nil || !got.Equal(want) {
			t.Errorf("%s becomes %+v, %v; want %+v", state, got, err, want)
		}
	}
}
