package websocketproxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestMain(m *testing.M) {
	// No storage is looked at.
	awaitNothing()
	goleak.VerifyTestMain(m,
		// Started by packages that Caddy imports, for the life of the process.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		// Sees some seconds later that the lock of a file was given back.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		// Those of the process, which wait for the next tunnel.
		goleak.IgnoreAnyFunction("github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay.(*poller).run"),
	)
}

// awaitNothing has nobody wait for states that are stored.
func awaitNothing() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	process.operators.AwaitFirst(ctx)
}

// testProxy is a server whose only handler is a websocket_proxy.
type testProxy struct {
	tb      testing.TB
	Addr    string
	handler *Handler
	logs    *observer.ObservedLogs
	header  http.Header // what handlers in front set
	target  string      // what they make of the request's, unless it is empty
}

// nextBody is what the handler behind the proxy answers.
const nextBody = "the next handler"

// proxyTo starts a proxy with default settings.
func proxyTo(tb testing.TB, dials ...string) *testProxy {
	tb.Helper()
	h := new(Handler)
	for _, dial := range dials {
		h.Upstreams = append(h.Upstreams, &Upstream{Dial: dial})
	}
	return newProxy(tb, h)
}

// newProxy starts a proxy. When the test has ended, everything that it holds
// has to be given back.
func newProxy(tb testing.TB, h *Handler) *testProxy {
	tb.Helper()
	return startProxy(tb, h, (*httptest.Server).Start)
}

func startProxy(tb testing.TB, h *Handler, start func(*httptest.Server)) *testProxy {
	tb.Helper()
	provision(tb, h)
	return serveWith(tb, h, start)
}

// serveWith starts a server for a handler that is loaded already.
func serveWith(tb testing.TB, h *Handler, start func(*httptest.Server)) *testProxy {
	tb.Helper()
	p := &testProxy{tb: tb, handler: h}
	core, logs := observer.New(zapcore.DebugLevel)
	p.logs = logs
	h.logger = zap.New(core)
	process.logs.mu.Lock()
	h.reporter.log = h.logger
	process.logs.mu.Unlock()
	server := httptest.NewUnstartedServer(p)
	start(server)
	p.Addr = server.Listener.Addr().String()
	tb.Cleanup(server.Close)
	return p
}

// emptyConfig is a configuration of Caddy that does not run.
var emptyConfig = func() caddy.Context {
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		panic(err)
	}
	// Makes the channel here: one made in a bubble is of no use outside of it.
	ctx.Done()
	return ctx
}()

// newContext returns what modules are provisioned with.
func newContext() (caddy.Context, context.CancelFunc) {
	return caddy.NewContext(emptyConfig)
}

// provision loads h as Caddy would, and unloads it when the test has ended.
func provision(tb testing.TB, h *Handler) {
	tb.Helper()
	ctx, cancel := newContext()
	tb.Cleanup(cancel)
	tb.Cleanup(func() {
		if err := h.Cleanup(); err != nil {
			tb.Errorf("cleaning up: %v", err)
		}
		expectNothingHeld(tb)
	})
	if err := h.Provision(ctx); err != nil {
		tb.Fatalf("provisioning: %v", err)
	}
}

// provisionJSON loads a configuration that is expected to be refused, and
// returns the error.
func provisionJSON(tb testing.TB, config string) error {
	tb.Helper()
	h := new(Handler)
	if err := json.Unmarshal([]byte(config), h); err != nil {
		tb.Fatalf("parsing %s: %v", config, err)
	}
	ctx, cancel := newContext()
	defer cancel()
	err := h.Provision(ctx)
	if cerr := h.Cleanup(); cerr != nil {
		tb.Errorf("cleaning up: %v", cerr)
	}
	expectNothingHeld(tb)
	return err
}

// ServeHTTP does what Caddy's server does around handlers.
func (p *testProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "Caddy")
	maps.Copy(w.Header(), p.header)
	if p.target != "" {
		r.URL = new(url.URL)
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(p.target, "?")
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Upgrade-Seen", r.Header.Get("Upgrade"))
		_, err := w.Write([]byte(nextBody))
		return err
	})
	err := p.handler.ServeHTTP(w, r, next)
	if err == nil {
		return
	}
	var answer caddyhttp.HandlerError
	if !errors.As(err, &answer) {
		p.tb.Errorf("ServeHTTP returned %T: %v", err, err)
		return
	}
	w.WriteHeader(answer.StatusCode)
}

// expectNothingHeld waits until no tunnel is live, no upstream is referenced and
// none is looked for, which is how it has to be when all configurations are gone.
func expectNothingHeld(tb testing.TB) {
	tb.Helper()
	eventually(tb, "no tunnel is live", func() bool { return process.live.Count() == 0 })
	eventually(tb, "no upstream is referenced, no failure counted, and nobody waits", func() bool {
		return process.table.Held() == upstream.Held{}
	})
	eventually(tb, "no client has a place", func() bool { return process.clients.Held() == 0 })
	if sources, _ := process.sources.Held(); sources > 0 {
		tb.Errorf("there are still %d sources", sources)
	}
}

// eventually waits for something that another goroutine is about to do.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("never happened: %s", what)
		}
	}
}

// tunnelsOf returns how many tunnels are counted at an upstream.
func tunnelsOf(address string) int {
	i, _ := process.table.Info(address)
	return i.Tunnels
}

// closedLine waits for the log line of the only tunnel that has ended so far.
func (p *testProxy) closedLine() map[string]any {
	p.tb.Helper()
	return p.line("tunnel closed")
}

// line waits for the first log line with this message and returns its fields.
func (p *testProxy) line(message string) map[string]any {
	p.tb.Helper()
	eventually(p.tb, "the log has "+message, func() bool {
		return p.logs.FilterMessage(message).Len() > 0
	})
	return p.logs.FilterMessage(message).All()[0].ContextMap()
}

// expectFields compares some fields of a log line.
func expectFields(tb testing.TB, got, want map[string]any) {
	tb.Helper()
	for name, value := range want {
		if got[name] != value {
			tb.Errorf("field %s is %v (%T), want %v (%T); line: %v", name, got[name], got[name], value, value, got)
		}
	}
}

// withTLS starts the proxy's server with cfg.
func withTLS(cfg *tls.Config) func(*httptest.Server) {
	return func(s *httptest.Server) {
		s.TLS = cfg
		s.StartTLS()
	}
}
