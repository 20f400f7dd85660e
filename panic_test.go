package websocketproxy

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// brokenWriter is what a middleware with a mistake leaves of a response.
type brokenWriter struct{ http.ResponseWriter }

func (w brokenWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (brokenWriter) WriteHeader(int) { panic("a mistake in a middleware") }

// net/http survives a panic of somebody's code in a handshake, so the place at
// the upstream and that of the client must not stay taken.
func TestPanicsTakeNoPlaces(t *testing.T) {
	const answered = "when the client has its answer"
	for name, breakIt := range map[string]func(h *Handler, w http.ResponseWriter) http.ResponseWriter{
		"before the upstream gets anything": func(h *Handler, w http.ResponseWriter) http.ResponseWriter {
			h.Headers = &headers.Handler{Request: &headers.HeaderOps{Set: http.Header{"X-User": {"{broken}"}}}}
			return w
		},
		"before the upstream's answer": func(h *Handler, w http.ResponseWriter) http.ResponseWriter {
			h.transport.Connect = func(context.Context, string, string) (net.Conn, error) {
				panic("a mistake in a module for networks")
			}
			return w
		},
		"after it": func(_ *Handler, w http.ResponseWriter) http.ResponseWriter { return brokenWriter{w} },
		answered:   func(_ *Handler, w http.ResponseWriter) http.ResponseWriter { return w },
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			up := testbed.NewUpstream(t, testbed.Echo)
			h := &Handler{Upstreams: upstreams(up.Addr), Limits: &Limits{MaxTunnelsPerClient: 5}}
			h.Labels = []*label.Label{{Name: "user", Value: "{broken}"}}
			load(t, h)
			spans := tracetest.NewSpanRecorder()
			tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w = breakIt(h, w)
				ctx, span := tracer.Start(r.Context(), "handler")
				defer span.End()
				repl := caddy.NewReplacer()
				repl.Map(func(name string) (any, bool) {
					if name == "broken" {
						panic("a mistake in a module for placeholders")
					}
					return nil, false
				})
				r = caddyhttp.PrepareRequest(r.WithContext(ctx), repl, w, new(caddyhttp.Server))
				t.Errorf("no panic, but %v", h.ServeHTTP(w, r, nil))
			}))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.Start()
			t.Cleanup(server.Close)
			c := testbed.Dial(t, server.Listener.Addr().String())
			c.Send(testbed.HandshakeRequest("/", c.Host))
			if name == answered { // net/http closes no connection that was taken over
				c.Response()
			} else {
				c.ExpectEOF()
			}
			c.Close()
			eventually(t, "the place is free", func() bool { return tunnelsOf(up.Addr) == 0 })
			for _, name := range []string{"websocket.dial", "websocket.handshake"} {
				eventually(t, "the span "+name+" has ended", func() bool {
					return slices.ContainsFunc(spans.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() == name })
				})
			}
		})
	}
}
