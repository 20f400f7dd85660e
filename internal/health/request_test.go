package health

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// knowing replaces {x} by X, and removes {y}, which it does not know.
type knowing struct{}

func (k knowing) ReplaceAll(text, empty string) string {
	return strings.ReplaceAll(k.ReplaceKnown(text, empty), "{y}", empty)
}
func (knowing) ReplaceKnown(text, _ string) string { return strings.ReplaceAll(text, "{x}", "X") }

func TestRequestForAnAddress(t *testing.T) {
	t.Parallel()
	tcp, unix := upstream.Address{Network: "tcp", HostPort: "a.test:1"}, upstream.Address{Network: "unix", HostPort: "/run/a.sock"}
	for name, test := range map[string]struct {
		to      upstream.Address
		secure  bool
		request Request
		want    string // empty: it cannot be made
	}{
		"a path":         {tcp, false, Request{Method: "GET", URI: "/a%2Fb?c=d#e"}, "GET http://a.test:1/a%2Fb?c=d, Host a.test:1"},
		"with TLS":       {tcp, true, Request{Method: "GET", URI: "/"}, "GET https://a.test:1/, Host a.test:1"},
		"a unix socket":  {unix, false, Request{Method: "GET", URI: "/"}, "GET http://localhost/, Host localhost"},
		"another host":   {tcp, false, Request{Method: "GET", URI: "/", Header: http.Header{"Host": {"{x}{y}.test"}}}, "GET http://a.test:1/, Host X.test"},
		"a body":         {tcp, false, Request{Method: "PUT", URI: "/", Body: "{x}{y}"}, "PUT http://a.test:1/, Host a.test:1, body X{y}"},
		"fields":         {tcp, false, Request{Method: "GET", URI: "/", Header: http.Header{"{x}-A{y}": {"{x}", "{y}"}}}, "GET http://a.test:1/, Host a.test:1, X-A: X|{y}"},
		"no such method": {tcp, false, Request{Method: "G T", URI: "/"}, ""},
		"no URI":         {tcp, false, Request{Method: "GET", URI: "%"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := test.request.to(t.Context(), test.to, test.secure, knowing{})
			if test.want == "" {
				if err == nil || !strings.HasPrefix(err.Error(), "making the request: ") {
					t.Errorf("got %v, %v", r, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := r.Method + " " + r.URL.String() + ", Host " + r.Host
			for name, values := range r.Header {
				got += ", " + name + ": " + strings.Join(values, "|")
			}
			if r.Body != nil {
				body, _ := io.ReadAll(r.Body)
				got += ", body " + string(body)
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
