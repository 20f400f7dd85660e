package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// TestAsksTheServer runs itself with and without the setting, as servers look at the
// environment only when the process begins.
func TestAsksTheServer(t *testing.T) {
	const inside = "ASKS_THE_SERVER"
	if want := os.Getenv(inside); want != "" {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		if offered, err := offersExtendedConnect(); err != nil || offered != (want == "on") {
			t.Errorf("offered: %v, %v, want %s", offered, err, want)
		}
		return
	}
	for debug, want := range map[string]string{"": "off", "http2xconnect=0": "off", "http2xconnect=1": "on"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+debug, inside+"="+want)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("with GODEBUG %q: %v: %s", debug, err, out)
		}
	}
}

func TestTellHTTP2(t *testing.T) {
	for _, test := range []struct {
		debug   string
		offered bool
		err     error
		level   zapcore.Level
		says    string // the message and why
	}{
		{debug: "http2xconnect=1", offered: true, level: zap.InfoLevel, says: "are on"},
		{offered: true, level: zap.InfoLevel, says: "are on"}, // Go has another default some day
		{level: zap.InfoLevel, says: "are off: this build does not have them"},
		{debug: "gctrace=1", level: zap.InfoLevel, says: "are off: this build does not have them"},
		{debug: "http2xconnect=0", level: zap.InfoLevel, says: "are off: GODEBUG says so"},
		{debug: "http2xconnect=1", level: zap.WarnLevel, says: "are off: this version of Go"},
		{err: errors.New("no answer"), level: zap.WarnLevel, says: "it is not known"},
	} {
		core, logs := observer.New(zap.DebugLevel)
		tellHTTP2(zap.New(core), test.debug, test.offered, test.err)
		lines := logs.All()
		if len(lines) != 1 || lines[0].Level != test.level {
			t.Fatalf("with %+v, the log has %+v", test, lines)
		}
		if said := fmt.Sprintf("%s: %v", lines[0].Message, lines[0].ContextMap()["why"]); !strings.Contains(said, test.says) {
			t.Errorf("with %+v, the log says %s", test, said)
		}
	}
}

func TestSpeaksHTTP2(t *testing.T) {
	tls := caddytls.ConnectionPolicies{new(caddytls.ConnectionPolicy)}
	all := []string{"h1", "h2", "h3"}
	for name, test := range map[string]struct {
		server *caddyhttp.Server
		want   bool
	}{
		"TLS":          {&caddyhttp.Server{Protocols: all, TLSConnPolicies: tls}, true},
		"without TLS":  {&caddyhttp.Server{Protocols: all}, false},
		"h2c":          {&caddyhttp.Server{Protocols: []string{"h1", "h2c"}}, true},
		"not h2":       {&caddyhttp.Server{Protocols: []string{"h1", "h3"}, TLSConnPolicies: tls}, false},
		"at another":   {&caddyhttp.Server{Protocols: all, ListenProtocols: [][]string{{"h1"}, nil}, TLSConnPolicies: tls}, true},
		"at none":      {&caddyhttp.Server{Protocols: all, ListenProtocols: [][]string{{"h1"}, {"h3"}}, TLSConnPolicies: tls}, false},
		"only at this": {&caddyhttp.Server{Protocols: []string{"h1"}, ListenProtocols: [][]string{{"h1"}, {"h2c"}}}, true},
	} {
		test.server.Listen = []string{":1", ":2"}
		if got := speaksHTTP2(test.server); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
