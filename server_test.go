package websocketproxy

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/proxyprotocol" // a listener wrapper

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// caddyConfig is the configuration of a Caddy with one server, whose handler is a
// websocket_proxy, and its apps. What it logs is of this level.
func caddyConfig(level string, server, proxy map[string]any) (config, apps map[string]any) {
	proxy["handler"] = "websocket_proxy"
	server["listen"] = []string{"127.0.0.1:0"}
	server["automatic_https"] = map[string]any{"disable": true}
	server["routes"] = []any{map[string]any{"handle": []any{proxy}}}
	apps = map[string]any{
		"tls":  map[string]any{"disable_storage_check": true, "disable_storage_clean": true},
		"http": map[string]any{"servers": map[string]any{"test": server}},
	}
	return map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": level}}},
		"apps":    apps,
	}, apps
}

// loadCaddy runs a Caddy in this process, or reloads it, and returns the address of its
// server. It is for the caller to stop it.
func loadCaddy(t *testing.T, config map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(&cfg); err != nil {
		t.Fatalf("running Caddy: %v", err)
	}
	return listenAddress(t)
}

// stopCaddy stops it, after which nothing may be held.
func stopCaddy(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping Caddy: %v", err)
	}
	expectNothingHeld(t)
}

// listenAddress asks the running Caddy where its server listens.
func listenAddress(t *testing.T) string {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	running, ok := app.(*caddyhttp.App)
	if !ok {
		t.Fatalf("the http app is a %T", app)
	}
	return running.Servers["test"].Listeners()[0].Addr().String()
}

// Caddy wraps connections in types that hide how to half-close them, and does
// not export these types. Here its own server makes them: if it wraps in
// another way some day, this test waits in vain for the end of a stream.
func TestEndOfStreamPassesCaddysOwnConnections(t *testing.T) {
	tests := map[string]struct {
		server   map[string]any
		preamble string
	}{
		"HTTP/1 and HTTP/2": {
			server: map[string]any{},
		},
		"only HTTP/1": {
			server: map[string]any{"protocols": []string{"h1"}},
		},
		"with access log": {
			server: map[string]any{"protocols": []string{"h1"}, "logs": map[string]any{}},
		},
		"with metrics": {
			server: map[string]any{"protocols": []string{"h1"}, "metrics": map[string]any{}, "logs": map[string]any{}},
		},
		"PROXY protocol": {
			server: map[string]any{
				"listener_wrappers": []any{map[string]any{"wrapper": "proxy_protocol"}},
			},
			preamble: "PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n",
		},
		"PROXY protocol, only HTTP/1": {
			server: map[string]any{
				"protocols":         []string{"h1"},
				"listener_wrappers": []any{map[string]any{"wrapper": "proxy_protocol"}},
			},
			preamble: "PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			config, _ := caddyConfig("ERROR", test.server, map[string]any{"upstreams": upstreams(up.Addr)})
			t.Cleanup(func() { stopCaddy(t) })
			c := testbed.Dial(t, loadCaddy(t, config))
			c.Send(test.preamble)
			u := accept(t, up, c)
			u.CloseWrite()
			c.ExpectEOF()
			c.WriteFrame(testbed.NewFrame(testbed.Text, "still here"))
			u.ExpectFrame(testbed.Text, "still here")
			c.Close()
			u.ExpectEOF()
			u.Close()
			eventually(t, "the tunnel has ended", func() bool { return process.live.Count() == 0 })
		})
	}
}
