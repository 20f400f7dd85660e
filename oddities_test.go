package websocketproxy

import (
	"context"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestWhatIsRatherAMistakeIsLoggedAtLoad(t *testing.T) {
	tests := map[string]struct {
		config string
		want   []string // settings
	}{
		"nothing odd": {
			`{"timeouts": {"idle": "2h", "write": -1}, "keepalive": {"ping_interval": "30s"},
				"limits": {"max_message_size": 1024}, "load_balancing": {"try_duration": "1ms"}}`,
			nil,
		},
		"durations without unit": {
			`{"timeouts": {"handshake": 5, "idle": 30, "write": 999999, "half_close": 1, "max_lifetime": 3600},
				"load_balancing": {"try_duration": 5, "try_interval": 250, "queue": {"timeout": 5}},
				"health_checks": {"passive": {"fail_duration": 10}}, "drain": {"evict_period": 30},
				"transport": {"protocol": "http", "dial_timeout": 3, "keep_alive": {"probe_interval": 15}}}`,
			[]string{
				"drain.evict_period", "health_checks.passive.fail_duration", "load_balancing.queue.timeout",
				"load_balancing.try_duration", "load_balancing.try_interval", "timeouts.half_close", "timeouts.handshake",
				"timeouts.idle", "timeouts.max_lifetime", "timeouts.write", "transport.dial_timeout",
				"transport.keep_alive.probe_interval",
			},
		},
		"pings without unit":          {`{"keepalive": {"ping_interval": 30}}`, []string{"keepalive.ping_interval"}},
		"pings that come too late":    {`{"keepalive": {"ping_interval": "10m"}, "timeouts": {"idle": "10m"}}`, []string{"keepalive.ping_interval"}},
		"pings later than by default": {`{"keepalive": {"ping_interval": "2h"}}`, []string{"keepalive.ping_interval"}},
		"pings without another end":   {`{"keepalive": {"ping_interval": "2h"}, "timeouts": {"idle": -1}}`, nil},
		"a size without unit":         {`{"limits": {"max_message_size": 64}}`, []string{"limits.max_message_size"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := with(t, "localhost:9000", test.config)
			h.Name = "chat"
			provision(t, h)
			core, logs := observer.New(zapcore.DebugLevel)
			h.logger = zap.New(core)
			if err := h.logOddities(emptyConfig); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, line := range logs.All() {
				setting, _ := line.ContextMap()["setting"].(string)
				got = append(got, setting)
				expectFields(t, line.ContextMap(), map[string]any{"handler": "chat"})
				if line.Level != zapcore.WarnLevel {
					t.Errorf("the level is %v", line.Level)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("there are lines about %q, want %q", got, test.want)
			}
		})
	}
}

// Whether proxies are trusted that have addresses, is tested with a whole Caddy.
func TestClientsThatMayChooseTheirAddressAreOdd(t *testing.T) {
	fields := []string{"X-Forwarded-For"}
	for name, test := range map[string]struct {
		server *caddyhttp.Server
		config string
		odd    bool
	}{
		"nobody is trusted": {&caddyhttp.Server{ClientIPHeaders: fields}, `{"limits": {"max_tunnels_per_client": 5}}`, false},
		"not strict": {
			&caddyhttp.Server{ClientIPHeaders: fields, TrustedProxiesUnix: true}, `{"limits": {"max_tunnels_per_client": 5}}`, true,
		},
		"strict": {
			&caddyhttp.Server{ClientIPHeaders: fields, TrustedProxiesUnix: true, TrustedProxiesStrict: 1},
			`{"limits": {"max_tunnels_per_client": 5}}`, false,
		},
		"a field that is set anew": {
			&caddyhttp.Server{ClientIPHeaders: []string{"X-Real-IP"}, TrustedProxiesUnix: true},
			`{"limits": {"max_tunnels_per_client": 5}}`, false,
		},
		"no limit":       {&caddyhttp.Server{ClientIPHeaders: fields, TrustedProxiesUnix: true}, `{}`, false},
		"a limit is off": {&caddyhttp.Server{ClientIPHeaders: fields, TrustedProxiesUnix: true}, `{"limits": {"max_tunnels_per_client": -1}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := with(t, "localhost:9000", test.config)
			provision(t, h)
			ctx := emptyConfig
			ctx.Context = context.WithValue(ctx.Context, caddyhttp.ServerCtxKey, test.server)
			if odd := len(h.oddities(ctx)) > 0; odd != test.odd {
				t.Errorf("got %v", h.oddities(ctx))
			}
		})
	}
}
